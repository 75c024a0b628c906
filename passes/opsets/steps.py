"""What changed from opset to opset: one step for each operator and version that must be rewritten.

The steps are those where a node of the old opset means something else, or nothing, in the new
one (ONNX's Changelog.md); operators that only gained types or options have none.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from bitfold.passes.opsets.conversion import Conversion
from bitfold.runtime.errors import ModelError

Step = Callable[[Conversion], None]


def _broadcast(c: Conversion) -> None:
    """Opset 7 aligns shapes at the end; before, ``axis`` said where the second one starts."""
    axis = c.take("axis", ir.AttributeType.INT)
    if not c.take("broadcast", ir.AttributeType.INT) or axis is None:
        return
    first, second = c.input(0), c.input(1)
    if first.shape is None or second.shape is None:
        raise c.refuse("it broadcasts along an axis, and the shapes are not known")
    at = int(axis) % max(1, len(first.shape))  # type: ignore[call-overload]
    behind = len(first.shape) - at - len(second.shape)
    if behind > 0:
        rank = len(second.shape)
        axes = {"axes": list(range(rank, rank + behind))}
        c.set_inputs(first, c.op("Unsqueeze", [second], axes))


def _prelu(c: Conversion) -> None:
    """Before opset 7, a slope of one axis belonged to the channels."""
    x, slope = c.input(0), c.input(1)
    if slope.shape is None or x.shape is None:
        raise c.refuse("the shapes of its data and its slope are not known")
    if len(slope.shape) == 1 and slope.shape[0] != 1 and len(x.shape) > 2:
        axes = {"axes": list(range(1, len(x.shape) - 1))}
        c.set_inputs(x, c.op("Unsqueeze", [slope], axes))


def _drop(*names: str) -> Step:
    """Attributes that tell how a run, not the model, is meant."""

    def step(c: Conversion) -> None:
        for name in names:
            c.take(name, ir.AttributeType.INT)

    return step


def _inference(c: Conversion) -> None:
    """Before opset 7, ``is_test`` told inference from training, which was the default."""
    c.take("is_test", ir.AttributeType.INT)


def _spatial(c: Conversion) -> None:
    if c.take("spatial", ir.AttributeType.INT) == 0:
        raise c.refuse("its statistics are per element (spatial=0)")


def _upsample_scales(c: Conversion) -> None:
    scales = c.take("scales", ir.AttributeType.FLOATS)
    if scales is None:
        raise c.refuse("it has no attribute scales")
    c.set_inputs(c.input(0), c.constant(np.array(scales, np.float32)))


def _upsample_to_resize(c: Conversion) -> None:
    """Upsample only enlarges, so the nearest element is the one below, whatever the scales."""
    c.replace(_asymmetric(c, c.input(0), c.input(1), "floor"))


def _resize(c: Conversion) -> None:
    """Up to opset 10, coordinates were scaled as they are, and the nearest one was rounded down
    on axes that grow and up on those that shrink; opset 11 has one rule for all axes, so these
    become a Resize that shrinks and one that enlarges.  Each leaves the other's axes alone."""
    x, scales = c.input(0), c.input(1)
    if c.string("mode", "nearest") != "nearest":
        c.replace(_asymmetric(c, x, scales, "floor"))
        return
    tensor = _constant(scales)
    shrinks = tensor is None or bool((tensor.numpy() < 1).any())
    grows = tensor is None or bool((tensor.numpy() > 1).any())
    one = c.constant(np.ones((), np.float32)) if shrinks and grows else None
    if shrinks:
        x = _asymmetric(c, x, scales if one is None else c.op("Min", [scales, one]), "ceil")
    if grows or not shrinks:
        x = _asymmetric(c, x, scales if one is None else c.op("Max", [scales, one]), "floor")
    c.replace(x)


def _asymmetric(c: Conversion, x: ir.Value, scales: ir.Value, rounding: str) -> ir.Value:
    """Resize of opset 11 with the coordinates of opset 10."""
    attributes = {"mode": c.string("mode", "nearest")}
    attributes["coordinate_transformation_mode"] = "asymmetric"
    if attributes["mode"] == "nearest":
        attributes["nearest_mode"] = rounding
    resized = c.op("Resize", [x, None, scales], attributes)
    node = resized.producer()
    assert node is not None  # it was made above
    node.version = max(c.version, 11)  # no step of an older opset may take it for an older one
    return resized


def _scan(c: Conversion) -> None:
    raise c.refuse("Scan had a batch axis up to opset 8")


def _slice(c: Conversion) -> None:
    starts = c.take("starts", ir.AttributeType.INTS)
    ends = c.take("ends", ir.AttributeType.INTS)
    axes = c.take("axes", ir.AttributeType.INTS)
    if starts is None or ends is None:
        raise ModelError(f"{c.label} lacks its attributes starts and ends")
    ints = [None if v is None else c.integers(v) for v in (starts, ends, axes)]  # type: ignore[arg-type]
    c.set_inputs(c.input(0), *ints)


def _top_k(c: Conversion) -> None:
    k = c.take("k", ir.AttributeType.INT)
    if k is None:
        raise ModelError(f"{c.label} lacks its attribute k")
    c.set_inputs(c.input(0), c.integers([k]))  # type: ignore[list-item]


def _clip(c: Conversion) -> None:
    x = c.input(0)
    low, high = (c.take(name, ir.AttributeType.FLOAT) for name in ("min", "max"))
    bounds = [
        None if bound is None else c.constant_like([bound], x, scalar=True)  # type: ignore[list-item]
        for bound in (low, high)
    ]
    c.set_inputs(x, *bounds)


def _pad(c: Conversion) -> None:
    x = c.input(0)
    pads = c.take("pads", ir.AttributeType.INTS)
    fill = c.take("value", ir.AttributeType.FLOAT)
    if pads is None:
        raise ModelError(f"{c.label} lacks its attribute pads")
    value = c.constant_like([fill], x, scalar=True) if fill else None  # type: ignore[list-item]
    c.set_inputs(x, c.integers(pads), value)  # type: ignore[arg-type]


def _scatter(c: Conversion) -> None:
    inputs = [c.input(index) for index in range(3)]
    c.replace(c.op("ScatterElements", inputs, {"axis": c.integer("axis", 0)}))


def _dropout(c: Conversion) -> None:
    """The ratio only matters in training."""
    c.take("ratio", ir.AttributeType.FLOAT)


def _axes(c: Conversion) -> None:
    axes = c.take("axes", ir.AttributeType.INTS)
    if axes is not None:
        c.set_inputs(c.input(0), c.integers(axes))  # type: ignore[arg-type]


def _split(c: Conversion) -> None:
    split = c.take("split", ir.AttributeType.INTS)
    if split is not None:
        c.set_inputs(c.input(0), c.integers(split))  # type: ignore[arg-type]


def _split_count(c: Conversion) -> None:
    if c.optional(1) is None:
        c.node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", len(c.node.outputs))


def _flattening(c: Conversion) -> None:
    """Up to opset 12, Softmax and its kin made a matrix of their input, cut at ``axis``."""
    x, axis = c.input(0), c.integer("axis", 1)
    rank = None if x.shape is None else len(x.shape)
    if axis == -1 or (rank is not None and axis % max(1, rank) == rank - 1):
        c.node.attributes["axis"] = ir.AttrInt64("axis", -1)
        return
    matrix = c.op("Flatten", [x], {"axis": axis})
    result = c.op(c.node.op_type, [matrix], {"axis": -1})
    c.replace(c.op("Reshape", [result, c.op("Shape", [x])]))


def _batch_normalization(c: Conversion) -> None:
    """Opset 14 has no saved statistics: outputs beyond the third, or any but one in inference."""
    if any(v.uses() or v.is_graph_output() for v in c.node.outputs[1:]):
        raise c.refuse("it is in training mode")
    while len(c.node.outputs) > 1:
        c.node.resize_outputs(1)


def _roi_align(c: Conversion) -> None:
    c.node.attributes["coordinate_transformation_mode"] = ir.AttrString(
        "coordinate_transformation_mode", "output_half_pixel"
    )


def _dft(c: Conversion) -> None:
    axis = c.take("axis", ir.AttributeType.INT)
    at = 1 if axis is None else int(axis)  # type: ignore[call-overload]
    c.set_inputs(c.input(0), c.optional(1), c.constant(np.array(at, np.int64)))


def _grid_sample(c: Conversion) -> None:
    names = {"bilinear": "linear", "bicubic": "cubic", "nearest": "nearest"}
    mode = c.string("mode", "bilinear")
    c.node.attributes["mode"] = ir.AttrString("mode", names.get(mode, mode))


def _group_normalization(c: Conversion) -> None:
    """Up to opset 20, scale and bias had one element a group; from 21 on, one a channel."""
    x, groups = c.input(0), c.integer("num_groups", 0)
    channels = None if x.shape is None or len(x.shape) < 2 else x.shape[1]
    if groups < 1 or not isinstance(channels, int) or channels % groups:
        raise c.refuse("its number of channels is not known, or no multiple of num_groups")
    repeated = []
    for index in (1, 2):
        column = c.op("Unsqueeze", [c.input(index), c.integers([1])])
        spread = c.op("Expand", [column, c.integers([1, channels // groups])])
        repeated.append(c.op("Reshape", [spread, c.integers([-1])]))
    c.set_inputs(x, *repeated)


_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less")
_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax"),
    *("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare"),
)

STEPS: dict[int, dict[str, Step]] = {
    7: {
        **dict.fromkeys(_ELEMENTWISE, _broadcast),
        "BatchNormalization": _inference,
        "Dropout": _inference,
        "Gemm": _drop("broadcast"),
        "PRelu": _prelu,
        **dict.fromkeys(("GRU", "LSTM", "RNN"), _drop("output_sequence")),
    },
    9: {"BatchNormalization": _spatial, "Upsample": _upsample_scales, "Scan": _scan},
    10: {"Slice": _slice, "TopK": _top_k, "Upsample": _upsample_to_resize},
    11: {"Clip": _clip, "Pad": _pad, "Resize": _resize, "Scatter": _scatter},
    12: {"Dropout": _dropout},
    13: {
        **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _flattening),
        **dict.fromkeys(("ReduceSum", "Squeeze", "Unsqueeze"), _axes),
        "Split": _split,
    },
    14: {"BatchNormalization": _batch_normalization},
    16: {"RoiAlign": _roi_align},
    18: {**dict.fromkeys(_REDUCTIONS, _axes), "Split": _split_count},
    20: {"DFT": _dft, "GridSample": _grid_sample},
    21: {"GroupNormalization": _group_normalization},
}
"""From the opset that brought a change, to operator, to the step."""


def _constant(value: ir.Value) -> ir.TensorProtocol | None:
    if value.is_graph_input():
        return None
    return ir.convenience.get_const_tensor(value)
