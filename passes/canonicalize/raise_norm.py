"""Raise decomposed layer and RMS normalization to LayerNormalization-17 and RMSNormalization-23."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule
from onnxscript.rewriter.pattern import OrValue

from bitfold.passes.canonicalize.rules import (
    Rule,
    decline,
    either,
    ints,
    is_scalar,
    keeps_dims,
    pass_over,
    scalar,
)

Gain = Literal["first", "last", "folded", "folded-first", "divided", "times", "times-first"]
"""Where the gain stands: a factor before or behind, in the inverse, or (the last three) nowhere."""


class RaiseNorm(Rule):
    """``c / sqrt(mean(c^2) + epsilon) * gain``, where c is x, or x less its mean.

    Centred it is layer normalization (Ba et al., 2016), else RMS normalization (Zhang and
    Sennrich, 2019).  The square may be Pow or Mul; the root may divide, or multiply as Reciprocal,
    1/root or a power of -0.5; the gain may stand on either side, be multiplied into the inverse
    first, or be missing (the op then gets ones).

    The means are over the last axes, or over axis 1: then the op stands between two transposes,
    as for channels before height and width.  Means over all axes behind the channels, with a gain
    of the channels, are InstanceNormalization's.  (GroupNormalization has no kernel in ORT's CPU
    provider: its form between two reshapes takes half the time and stays.)

    Declined: means over other axes, a gain that is constant, but not of the normalized axes.
    """

    def __init__(self, centred: bool, gain: Gain) -> None:
        self._op = "LayerNormalization" if centred else "RMSNormalization"
        super().__init__(f"{self._op} raised from its parts")
        self._centred, self._gain = centred, gain

    def pattern(
        self, op: Any, x: Any, gain: Any, epsilon: Any, axes: Any, axes2: Any, two: Any, one: Any
    ) -> Any:
        centred = x
        if self._centred:
            mean = op.ReduceMean(x, axes2, _allow_other_attributes=True, _outputs=["mean"])
            # torch.onnx writes the subtraction twice; CSE has merged the two by now.
            centred = op.Sub(x, mean)
        square = OrValue([op.Pow(centred, two), op.Mul(centred, centred)])
        moment = op.ReduceMean(square, axes, _allow_other_attributes=True, _outputs=["moment"])
        shifted = either(op.Add, moment, epsilon)
        root = op.Sqrt(shifted)
        inverse = OrValue([op.Reciprocal(root), op.Div(one, root), op.Pow(shifted, -0.5)])
        if self._gain == "divided":
            return op.Div(centred, root)
        factor = either(op.Mul, inverse, gain) if "folded" in self._gain else inverse
        if self._gain in ("folded", "times"):
            return op.Mul(centred, factor)
        if self._gain in ("folded-first", "times-first"):
            return op.Mul(factor, centred)
        normal = OrValue([op.Div(centred, root), either(op.Mul, centred, inverse)])
        return op.Mul(gain, normal) if self._gain == "first" else op.Mul(normal, gain)

    def check(
        self,
        context: Any,
        x: ir.Value,
        epsilon: ir.Value,
        axes: ir.Value,
        moment: ir.Value,
        two: ir.Value | None = None,
        one: ir.Value | None = None,
        **found: Any,
    ) -> MatchResult:
        if two is not None and not is_scalar(two, 2):
            return decline("the power is not 2", two)
        if one is not None and not is_scalar(one, 1):
            return decline("the dividend is not 1", one)
        if scalar(epsilon) is None:
            return decline("epsilon is not a constant scalar", epsilon)
        if x.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
            return decline(f"its input is {x.dtype}, not float or double", x)
        gain = found.get("gain")
        span = _span(x, axes, gain if self._centred else None)
        if self._centred and _span(x, found["axes2"], gain) != span:
            return decline("its means are over different axes", axes, found["axes2"])
        if span is not None and span[0] == "instance" and x.dtype != ir.DataType.FLOAT:
            return decline(f"its input is {x.dtype}, not float", x)
        means = [found["mean"], moment] if self._centred else [moment]
        if span is None or not keeps_dims(means):
            return decline("its means are not over the last axes or axis 1, kept", axes)
        sizes = self._sizes(x, span)
        if gain is None:
            known = all(isinstance(each, int) for each in sizes)
            return MatchResult() if known else decline("the normalized sizes are not known", x)
        if gain.const_value is None or gain.is_graph_input():
            return pass_over()  # a modulation: the norm is raised without it
        if gain.const_value.size == 1:
            return pass_over()
        if not _is_along(gain, span, sizes, x):
            return decline("the gain is not a constant of the normalized axes", gain)
        return MatchResult()

    def rewrite(
        self,
        op: Any,
        x: ir.Value,
        epsilon: ir.Value,
        axes: ir.Value,
        gain: ir.Value | None = None,
        **_: Any,
    ) -> Any:
        span = _span(x, axes, gain if self._centred else None)
        assert span is not None  # check looked
        dtype = x.dtype if x.dtype is not None else ir.DataType.FLOAT
        sizes = self._sizes(x, span)
        if gain is None:
            known = [size for size in sizes if isinstance(size, int)]  # all: check looked
            gain = op.Constant(value=ir.tensor(np.ones(known, dtype.numpy())))
        elif gain.const_value is not None and len(gain.const_value.shape) != len(sizes):
            array = gain.const_value.numpy()
            inner = array.shape[array.ndim - span[1] :] if span[0] == "last" else (-1,)
            gain = op.Constant(value=ir.tensor(array.reshape(inner)))
        if span[0] == "instance":
            zeros = np.zeros(_constant_shape(gain) or (), dtype.numpy())
            return op.InstanceNormalization(
                x, gain, op.Constant(value=ir.tensor(zeros)), epsilon=scalar(epsilon)
            )
        options = {"epsilon": scalar(epsilon), "stash_type": int(dtype)}
        if span[0] == "last":
            return getattr(op, self._op)(x, gain, axis=-span[1], **options)
        rank = len(x.shape) if x.shape is not None else 0
        last = op.Transpose(x, perm=[0, *range(2, rank), 1])
        normal = getattr(op, self._op)(last, gain, axis=-1, **options)
        return op.Transpose(normal, perm=_channels_first(rank))

    def _sizes(self, x: ir.Value, span: Span) -> list[int | ir.SymbolicDim]:
        shape = list(x.shape or ())
        return shape[len(shape) - span[1] :] if span[0] == "last" else shape[1:2]


class RaiseInstanceNormBias(Rule):
    """InstanceNormalization without a bias, plus a constant one of the channels, into one node."""

    def __init__(self, bias_first: bool) -> None:
        super().__init__("InstanceNormalization raised from its parts with its bias")
        self._bias_first = bias_first

    def pattern(self, op: Any, x: Any, gain: Any, zeros: Any, bias: Any) -> Any:
        normal = op.InstanceNormalization(
            x, gain, zeros, _allow_other_attributes=True, _outputs=["normal"]
        )
        return op.Add(bias, normal) if self._bias_first else op.Add(normal, bias)

    def check(
        self, context: Any, x: ir.Value, gain: ir.Value, zeros: ir.Value, bias: ir.Value, **_: Any
    ) -> MatchResult:
        old = ir.convenience.get_const_tensor(zeros)
        shape, channels = _constant_shape(bias), _constant_shape(gain)
        if old is None or shape is None or channels is None or x.shape is None:
            return pass_over()
        plain = not np.any(old.numpy()) and _is_channels(shape, x, channels[0])
        return MatchResult() if plain else pass_over()

    def rewrite(
        self, op: Any, x: ir.Value, gain: ir.Value, bias: ir.Value, normal: ir.Value, **_: Any
    ) -> Any:
        node = normal.producer()
        assert node is not None  # the pattern matched it
        flat = op.Reshape(bias, op.Constant(value_ints=[-1]))
        epsilon = node.attributes.get_float("epsilon", 1e-5)
        return op.InstanceNormalization(x, gain, flat, epsilon=epsilon)


class RaiseNormBias(Rule):
    """A norm plus a constant bias of the normalized axes, into one LayerNormalization."""

    def __init__(self, bias_first: bool, channels_first: bool) -> None:
        super().__init__("LayerNormalization raised from its parts with its bias")
        self._bias_first, self._channels_first = bias_first, channels_first

    def pattern(self, op: Any, x: Any, gain: Any, bias: Any) -> Any:
        normal = op.LayerNormalization(x, gain, _allow_other_attributes=True, _outputs=["normal"])
        if self._channels_first:
            normal = op.Transpose(normal, _allow_other_attributes=True, _outputs=["turned"])
        return op.Add(bias, normal) if self._bias_first else op.Add(normal, bias)

    def check(
        self,
        context: Any,
        x: ir.Value,
        gain: ir.Value,
        bias: ir.Value,
        turned: ir.Value | None = None,
        **_: Any,
    ) -> MatchResult:
        shape, normalized = _constant_shape(bias), _constant_shape(gain)
        if shape is None or normalized is None:
            return pass_over()
        if turned is None:
            rank = len(normalized) if x.shape is None else len(x.shape)
            extra = len(shape) - len(normalized)
            plain = shape[extra:] == normalized and set(shape[:extra]) <= {1}
            return MatchResult() if extra >= 0 and plain and len(shape) <= rank else pass_over()
        node = turned.producer()
        perm = list(node.attributes.get_ints("perm", [])) if node is not None else []
        rank = len(perm)
        wanted = [*normalized, *[1] * (rank - 2)]
        if perm != _channels_first(rank) or shape not in (wanted, [1, *wanted]):
            return pass_over()
        return MatchResult()

    def rewrite(
        self,
        op: Any,
        x: ir.Value,
        gain: ir.Value,
        bias: ir.Value,
        normal: ir.Value,
        turned: ir.Value | None = None,
        **_: Any,
    ) -> Any:
        node = normal.producer()
        assert node is not None  # the pattern matched it
        attributes = {name: attr.value for name, attr in node.attributes.items()}
        shape = _constant_shape(gain)
        assert shape is not None  # check looked
        if turned is None:
            if _constant_shape(bias) != shape:
                bias = op.Reshape(bias, op.Constant(value_ints=shape))
            return op.LayerNormalization(x, gain, bias, **attributes)
        transpose = turned.producer()
        assert transpose is not None
        flat = op.Reshape(bias, op.Constant(value_ints=[-1]))
        result = op.LayerNormalization(x, gain, flat, **attributes)
        return op.Transpose(result, perm=transpose.attributes.get_ints("perm", []))


Span = tuple[Literal["last", "channels", "instance"], int]
"""The normalized axes: the last so many, axis 1 alone, or all behind axis 1, whose gain it is."""


def _span(x: ir.Value, axes: ir.Value, gain: ir.Value | None) -> Span | None:
    found = ints(axes)
    if not found:
        return None
    if x.shape is None:
        return ("last", 1) if found == [-1] else None
    rank = len(x.shape)
    places = sorted(each % rank for each in found)
    if places == [1] and rank > 2:
        return "channels", 1
    if places != list(range(rank - len(places), rank)):
        return None
    if len(places) == rank - 2 and gain is not None and gain.const_value is not None:
        channels = x.shape[1]
        if channels != 1 and _is_channels(gain.const_value.shape.numpy(), x, channels):
            return "instance", len(places)
    return "last", len(places)


def _is_channels(shape: Sequence[int], x: ir.Value, channels: int | ir.SymbolicDim) -> bool:
    """Whether a constant of this shape has one element for each of x's channels, on axis 1."""
    assert x.shape is not None  # the callers looked
    tail = len(x.shape) - 2
    wanted = [channels, *[1] * tail]
    return list(shape) in (wanted, [1, *wanted])


def _constant_shape(value: ir.Value) -> list[int] | None:
    """The shape of a constant, be it an initializer or a Constant node's output."""
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None or value.is_graph_input() else list(tensor.shape.numpy())


def _is_along(gain: ir.Value, span: Span, sizes: list[int | ir.SymbolicDim], x: ir.Value) -> bool:
    """Whether the constant gain varies along the normalized axes alone, and over all of them."""
    assert gain.const_value is not None  # the caller looked
    shape = list(gain.const_value.shape.numpy())
    if span[0] != "last":
        assert x.shape is not None
        tail = len(x.shape) - 2
        inner = shape[: len(shape) - tail]
        known = [inner[-1]] if inner else []
        plain = shape[len(shape) - tail :] == [1] * tail and set(inner[:-1]) <= {1}
    else:
        known = shape[len(shape) - span[1] :] if len(shape) >= span[1] else []
        plain = set(shape[: len(shape) - span[1]]) <= {1}
    if not known or not plain:
        return False
    return known == sizes  # where x's size is not known, it may be 1, stretched by the gain


def _channels_first(rank: int) -> list[int]:
    """The permutation that brings the last axis to place 1."""
    return [0, rank - 1, *range(1, rank - 1)]


_WITH_GAIN: tuple[Gain, ...] = ("first", "last", "folded", "folded-first")
_WITHOUT: tuple[Gain, ...] = ("divided", "times", "times-first")


def _rules(centred: bool, gains: tuple[Gain, ...]) -> tuple[RewriteRule, ...]:
    return tuple(RaiseNorm.rule(centred, gain) for gain in gains)


LAYER_NORM_RULES = _rules(True, _WITH_GAIN)
PLAIN_LAYER_NORM_RULES = _rules(True, _WITHOUT)
BIAS_RULES: tuple[RewriteRule, ...] = tuple(
    [RaiseNormBias.rule(*each) for each in product((True, False), (True, False))]
    + [RaiseInstanceNormBias.rule(first) for first in (True, False)]
)
RMS_NORM_RULES = _rules(False, _WITH_GAIN)
PLAIN_RMS_NORM_RULES = _rules(False, _WITHOUT)
