"""Arithmetic on the numbers that graphs compute from shapes, some of them not known yet."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Union

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import input_at
from bitfold.passes.core.dim_names import is_placeholder

LARGEST = 64
"""Tensors with more elements than this hold no shapes."""

_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
_INTEGERS = (
    *(ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64),
    *(ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64),
)

Number = Union[int, float, bool, "Size", None]
"""None: not known."""


@dataclass(frozen=True)
class Size:
    """A product of named dimensions, such as ``4*batch``: at least 0, its value not known.

    Attributes:
        names: sorted; a square has its name twice.
    """

    factor: int
    names: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Size | None:
        """The size that ``text`` spells: factors joined by ``*``; None for other expressions."""
        factor, names = 1, []
        for part in text.split("*"):
            if part.isdecimal():
                factor *= int(part)
            elif part and not set(part) & set("+-() ,"):
                names.append(part)
            else:
                return cls(1, (text,))  # a sum or a quotient: one name for all of it
        return cls(factor, tuple(sorted(names))) if factor and names else None

    def __str__(self) -> str:
        return "*".join([*([str(self.factor)] if self.factor != 1 else []), *self.names])

    def times(self, other: Number) -> Number:
        if isinstance(other, Size):
            return Size(self.factor * other.factor, tuple(sorted(self.names + other.names)))
        if other is None or other == 0:
            return other
        whole = 0 < other < math.inf and other == int(other)
        return Size(self.factor * int(other), self.names) if whole else None

    def over(self, other: Number) -> Number:
        """The quotient, where it is whole whatever the dimensions are."""
        if other is None:
            return None
        factor, names = (other.factor, other.names) if isinstance(other, Size) else (other, ())
        left = list(self.names)
        for name in names:
            if name not in left:
                return None
            left.remove(name)
        if (
            not math.isfinite(factor)
            or factor < 1
            or factor != int(factor)
            or self.factor % int(factor)
        ):
            return None
        quotient = self.factor // int(factor)
        return Size(quotient, tuple(left)) if left else quotient


def dim_number(dim: int | ir.SymbolicDim) -> Number:
    """A dimension as a number; None for one whose name is a placeholder."""
    if isinstance(dim, int):
        return dim
    return None if dim.value is None or is_placeholder(dim.value) else Size.parse(str(dim.value))


def number_dim(number: Number) -> int | ir.SymbolicDim:
    """A number as a dimension."""
    if isinstance(number, Size):
        return ir.SymbolicDim(str(number))
    return ir.SymbolicDim(None) if number is None else int(number)


def multiply(a: Number, b: Number) -> Number:
    """The product; None where it is not known."""
    if a is None or b is None:
        return None
    if isinstance(a, Size):
        return a.times(b)
    return b.times(a) if isinstance(b, Size) else a * b


def divide(a: Number, b: Number) -> Number:
    """The quotient, of integers rounded towards zero; None where it is not known."""
    if a is None or b is None or (not isinstance(b, Size) and b == 0):
        return None
    if isinstance(a, Size):
        return a.over(b)
    if isinstance(b, Size):
        return None
    if isinstance(a, int) and isinstance(b, int):
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return a / b


def _add(a: Number, b: Number) -> Number:
    if isinstance(a, Size) or isinstance(b, Size) or a is None or b is None:
        return (a if b == 0 else b if a == 0 else None) if None not in (a, b) else None
    return a + b


def _subtract(a: Number, b: Number) -> Number:
    if isinstance(a, Size) or isinstance(b, Size) or a is None or b is None:
        return None if a is None or b is None else (0 if a == b else a if b == 0 else None)
    return a - b


def _equal(a: Number, b: Number) -> Number:
    if a is None or b is None:
        return None
    if isinstance(a, Size) == isinstance(b, Size):
        return True if a == b else (None if isinstance(a, Size) else False)
    number = b if isinstance(a, Size) else a
    return False if number < 0 else None  # type: ignore[operator]  # not a Size


def _where(condition: Number, a: Number, b: Number) -> Number:
    if condition is None:
        return a if a == b else None
    return a if condition else b


_BINARY: dict[str, Callable[[Number, Number], Number]] = {
    "Mul": multiply,
    "Div": divide,
    "Add": _add,
    "Sub": _subtract,
    "Equal": _equal,
}


def constant_numbers(value: ir.Value) -> np.ndarray | None:
    """The numbers of a small constant."""
    tensor = value.const_value
    if tensor is None or value.is_graph_input() or tensor.size > LARGEST:
        return None
    if not (tensor.dtype.is_integer() or tensor.dtype in (ir.DataType.FLOAT, ir.DataType.BOOL)):
        return None
    return _objects(tensor.numpy())


def evaluate(node: ir.Node, inputs: list[np.ndarray | None]) -> np.ndarray | None:
    """What ``node`` computes, as an array of :data:`Number`; None if it is nothing of the kind.

    Numbers that the output's type does not hold (300 in uint8) count as not known: what becomes
    of them is for the node itself to say.

    Args:
        inputs: the numbers of its inputs; None for what is no small tensor.
    """
    if node.domain != "" or len(node.outputs) != 1:
        return None
    try:
        found = _computed(node, inputs)
    except (ValueError, IndexError, OverflowError):
        return None  # axes or indices that are not there: the run will tell
    if found is None or found.size > LARGEST:
        return None
    return _held(found, node.outputs[0].dtype)


def _computed(node: ir.Node, inputs: list[np.ndarray | None]) -> np.ndarray | None:
    op = node.op_type
    if op == "Shape":
        return _shape(node)
    first = inputs[0] if inputs else None
    if first is None:
        return None
    known = [each for each in inputs if each is not None]
    if op in ("Add", "Sub", "Mul", "Div", "Equal", "Where"):
        arity = 3 if op == "Where" else 2
        if len(known) != arity:
            return None
        function: Callable[..., Number] = _where if op == "Where" else _BINARY[op]
        return np.asarray(np.frompyfunc(function, arity, 1)(*known), dtype=object)
    if op in ("Identity", "Cast"):
        return _cast(node, first)
    if op == "Concat":
        return np.concatenate(known) if len(known) == len(inputs) and first.ndim == 1 else None
    return _rearrange(node, first, [_plain(each) for each in inputs[1:]])


def _held(numbers: np.ndarray, dtype: ir.DataType | None) -> np.ndarray | None:
    """The numbers as a tensor of the type has them; None for a type that holds no shapes."""
    if dtype in (None, ir.DataType.BOOL):
        return numbers
    if dtype not in (*_INTEGERS, *_FLOATS):
        return None
    kind = dtype.numpy().type

    def hold(number: Number) -> Number:
        if number is None:
            return None
        if dtype in _FLOATS:
            with np.errstate(over="ignore"):
                return number if isinstance(number, Size) else float(kind(number))
        limits = np.iinfo(kind)
        if isinstance(number, Size):
            return number if number.factor <= limits.max and limits.bits > 16 else None
        return number if limits.min <= number <= limits.max else None

    return np.asarray(np.frompyfunc(hold, 1, 1)(numbers), dtype=object)


def _rearrange(
    node: ir.Node, first: np.ndarray, rest: list[np.ndarray | None]
) -> np.ndarray | None:
    """Ops that move elements, given where to by constants."""
    op = node.op_type
    where = rest[0] if rest else None
    if op == "ConstantOfShape":
        shape = _plain(first)
        if shape is None or np.prod(shape) > LARGEST:
            return None
        value = node.attributes.get_tensor("value", None)
        fill = 0.0 if value is None else value.numpy().reshape(-1)[0].item()
        return np.full([int(each) for each in shape], fill, object)
    if op == "Squeeze":
        axes = None if where is None else tuple(int(axis) for axis in where)
        return np.asarray(first.squeeze(axes), dtype=object)
    if where is None:
        return None
    if op == "Gather" and node.attributes.get_int("axis", 0) == 0 and first.ndim == 1:
        return np.asarray(_objects(first)[where.astype(np.int64)], dtype=object)
    if op == "Unsqueeze":
        return np.expand_dims(first, tuple(int(axis) for axis in where.reshape(-1)))
    if op == "Reshape" and 0 not in where:
        return first.reshape([int(each) for each in where])
    if op == "Slice" and first.ndim == 1 and len(rest) >= 2 and rest[1] is not None:
        step = rest[3] if len(rest) > 3 else None
        return first[int(where[0]) : int(rest[1][0]) : int(step[0]) if step is not None else 1]
    return None


def _shape(node: ir.Node) -> np.ndarray | None:
    source = input_at(node, 0)
    if source is None or source.shape is None:
        return None
    dims = [dim_number(dim) for dim in source.shape]
    end = node.attributes.get_int("end", len(dims))
    return _objects(dims[node.attributes.get_int("start", 0) : end])


def _cast(node: ir.Node, array: np.ndarray) -> np.ndarray | None:
    if node.op_type == "Identity":
        return array
    target = ir.DataType(node.attributes.get_int("to", 0))
    if target not in (*_INTEGERS, *_FLOATS):
        return None

    def cast(number: Number) -> Number:
        if number is None or isinstance(number, Size):
            return number
        if target in _FLOATS:
            return float(number)
        return int(number) if math.isfinite(number) else None

    return _held(np.asarray(np.frompyfunc(cast, 1, 1)(array), dtype=object), target)


def is_plain(array: np.ndarray) -> bool:
    """Whether every number is known."""
    return not any(each is None or isinstance(each, Size) for each in array.reshape(-1))


def _plain(array: np.ndarray | None) -> np.ndarray | None:
    """The array, where every number in it is known."""
    return array if array is not None and is_plain(array) else None


def _objects(values: Any) -> np.ndarray:
    """Python numbers in an array of the same shape."""
    array = np.empty(np.shape(values), dtype=object)
    source = values.reshape(-1) if isinstance(values, np.ndarray) else values
    for index, value in enumerate(source):
        array.reshape(-1)[index] = value.item() if isinstance(value, np.generic) else value
    return array
