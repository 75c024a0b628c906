"""A graph that grows node by node, as Hypothesis draws it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_ir.passes.common import ShapeInferencePass

T = TypeVar("T")
Draw = Callable[[st.SearchStrategy[T]], T]


@dataclass(frozen=True)
class Made:
    """A value of the graph, and its shape when the model runs."""

    name: str
    shape: tuple[int, ...]

    @property
    def width(self) -> int:
        """Its channels, where they are on the last axis."""
        return self.shape[-1]


@dataclass
class Builder:
    """A graph that grows."""

    draw: Draw
    rng: np.random.Generator
    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    feeds: dict[str, np.ndarray] = field(default_factory=dict)
    made: list[Made] = field(default_factory=list)
    outputs: list[Made] = field(default_factory=list)

    def pick(self, options: Sequence[T]) -> T:
        """One of some options; the first is the simplest."""
        picked: T = self.draw(st.sampled_from(options))
        return picked

    def maybe(self) -> bool:
        """No or yes."""
        return self.pick((False, True))

    def floats(self, *shape: int, fan: int = 1) -> np.ndarray:
        """Random numbers of about ``1 / sqrt(fan)``."""
        return (self.rng.standard_normal(shape) / np.sqrt(fan)).astype(np.float32)

    def constant(self, array: Any) -> Made:
        """A new initializer; integers are of 64 bits."""
        array = np.asarray(array)
        if array.dtype.kind == "i":
            array = array.astype(np.int64)
        name = f"c{len(self.weights)}"
        self.weights[name] = array
        return Made(name, array.shape)

    def weight(self, *shape: int) -> Made:
        """A matrix [in, out] of its own, or one that others have, too."""
        same = [name for name, array in self.weights.items() if array.shape == shape]
        if same and self.pick((False, False, True)):
            return Made(self.pick(same), shape)
        return self.constant(self.floats(*shape, fan=shape[0]))

    def feed(self, name: str, array: np.ndarray, shape: Sequence[int | str]) -> Made:
        """A new input of the model."""
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        self.feeds[name] = array
        return Made(name, array.shape)

    def add(
        self,
        op: str,
        inputs: Sequence[Made | None],
        shape: Sequence[int],
        more: Sequence[Sequence[int]] = (),
        **attributes: Any,
    ) -> Made:
        """A node whose first output has ``shape``; ``more`` are those of further outputs."""
        shapes = [tuple(shape), *map(tuple, more)]
        found = [Made(f"v{len(self.made) + index}", each) for index, each in enumerate(shapes)]
        names = ["" if each is None else each.name for each in inputs]
        outputs = [each.name for each in found]
        self.nodes.append(
            helper.make_node(op, names, outputs, name=f"{op}_{len(self.nodes)}", **attributes)
        )
        self.made += found
        return found[0]

    def same(self, op: str, *inputs: Made, **attributes: Any) -> Made:
        """A node whose output has the shape of its inputs, as they broadcast."""
        return self.add(op, inputs, np.broadcast_shapes(*(x.shape for x in inputs)), **attributes)

    def last(self, count: int) -> list[Made]:
        """The outputs of the latest node."""
        return self.made[-count:]

    def reshape(self, x: Made, *shape: int) -> Made:
        """A Reshape that spells its target in one of the exporters' ways."""
        target = list(shape)
        for axis in range(self.pick((0, 1, 2))):  # as many axes copied from the input
            if axis < min(len(target), len(x.shape)) and target[axis] == x.shape[axis]:
                target[axis] = 0
        if self.maybe():
            free = [axis for axis, size in enumerate(target) if size > 0]
            if free:
                target[free[0]] = -1
        return self.add("Reshape", [x, self.constant(target)], shape)

    def transpose(self, x: Made, *order: int) -> Made:
        """A Transpose."""
        return self.add("Transpose", [x], [x.shape[axis] for axis in order], perm=order)

    def joined(self, parts: Sequence[Made], axis: int) -> Made:
        """A Concat."""
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        return self.add("Concat", parts, shape, axis=axis)

    def cut(self, x: Made, begin: int, end: int, axis: int) -> Made:
        """A Slice."""
        shape = list(x.shape)
        shape[axis] = end - begin
        bounds = [self.constant([each]) for each in (begin, end, axis)]
        return self.add("Slice", [x, *bounds], shape)

    def split(self, x: Made, sizes: Sequence[int], axis: int) -> list[Made]:
        """A Split, or a Slice for each part."""
        if self.maybe():
            ends = np.cumsum(sizes)
            return [
                self.cut(x, int(e) - size, int(e), axis)
                for e, size in zip(ends, sizes, strict=True)
            ]
        shapes = [
            tuple(s if a == axis % len(x.shape) else d for a, d in enumerate(x.shape))
            for s in sizes
        ]
        self.add("Split", [x, self.constant(list(sizes))], shapes[0], shapes[1:], axis=axis)
        return self.last(len(sizes))

    def show(self, x: Made) -> None:
        """Make a value an output of the model."""
        if x not in self.outputs:
            self.outputs.append(x)

    def model(self) -> ir.Model:
        """What was built."""
        outputs = [
            helper.make_tensor_value_info(x.name, TensorProto.FLOAT, [None] * len(x.shape))
            for x in self.outputs
        ]
        weights = [numpy_helper.from_array(array, name) for name, array in self.weights.items()]
        graph = helper.make_graph(self.nodes, "random", self.inputs, outputs, weights)
        opsets = [helper.make_opsetid("", self.opset)]
        model = ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))
        ShapeInferencePass()(model)
        return model


Part = Callable[[Builder, Made], Made]
"""Something that networks are made of: from a value to another."""
