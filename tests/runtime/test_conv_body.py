"""``LowBitConv``'s function body in stock ORT, its packing and its oracle, against plain NumPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.conv_nodes import ConvCase, body_model

from bitfold.runtime.layouts.conv import ConvLayout, pack_conv_weight
from bitfold.runtime.reference.lowbit_conv import weight_of
from bitfold.runtime.reference.lowbit_matmul import levels

CASES = [
    ConvCase(20, 40, (3, 3), 4, strides=(2, 1), pads=(1, 0, 1, 2), zero_points=True, bias=True),
    ConvCase(33, 64, (3,), 3, strides=(2,), pads=(1, 1), group=32, act_group=32, table=True),
    ConvCase(24, 36, (2, 3), 8, groups=2, dilations=(2, 1), activation="relu", f16=False),
    ConvCase(40, 48, (1, 1), 2, group=16, act_group=16, table=True, zero_points=True),
    ConvCase(32, 30, (1, 1), 5, groups=2, acts="none", activation="clip", bias=True),
    ConvCase(24, 12, (3, 3), 8, groups=12, acts="none", pads=(1, 1, 1, 1), zero_points=True),
    ConvCase(40, 48, (1, 1), 8, activation="hardswish", out_scale=1.7, out_shift=-0.3, bias=True),
    ConvCase(7, 1, (9,), 4, acts="none", strides=(3,)),
    ConvCase(16, 3, (3, 3), 8, strides=(2, 2), pads=(0, 0, 1, 1)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_body_agrees_with_the_oracle(case: ConvCase) -> None:
    """One session for images of any number and size."""
    inputs = case.weights()
    run = ort.InferenceSession(body_model(case, inputs).SerializeToString())
    for images, size in ((1, 9), (3, 14)):
        x = case.image(images, *((size, size + 3) if len(case.kernel) == 2 else (2 * size,)))
        x[0, :, 2] = 0
        y, expected = run.run(None, {"X": x})[0], case.expected(x, inputs)
        assert y.shape == expected.shape
        assert np.abs(y - expected).max() < 3e-6 * np.abs(expected).max()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_packed_weight_is_the_plain_one(case: ConvCase) -> None:
    """The layout's padding and tiling come off again, group by group."""
    layout, rng = case.operator.layout, np.random.default_rng(5)
    groups = layout.taps if layout.depthwise else layout.packed_group_size
    codes = rng.integers(0, 1 << case.bits, (case.n, layout.taps * layout.cg)).astype(np.uint8)
    scales = rng.uniform(0.5, 2, (case.n, layout.scales)).astype(np.float32)
    zeros = rng.integers(-9, 9, scales.shape).astype(np.int8)
    packed = pack_conv_weight(
        codes, scales, zeros, case.bits, case.groups, layout.taps, layout.cg, groups
    )
    found = weight_of(layout, packed.codes, packed.scales, packed.zero_points, None, case.bits)
    plain = levels(codes.reshape(case.n, layout.scales, -1), case.bits, None, zeros)
    expected = (plain * scales.astype(np.float64)[:, :, None]).reshape(found.shape)
    np.testing.assert_array_equal(found, expected)
    assert packed.group_size == layout.packed_group_size


def test_one_scale_a_row_is_repeated() -> None:
    codes = np.arange(5 * 9 * 20, dtype=np.uint8).reshape(5, 180) % 16
    row = np.linspace(0.5, 1, 5, dtype=np.float16)[:, None]
    each = pack_conv_weight(codes, np.repeat(row, 9, 1), None, 4, 1, 9, 20, 20)
    once = pack_conv_weight(codes, row, None, 4, 1, 9, 20, 20)
    np.testing.assert_array_equal(once.scales, each.scales)
    assert once.scales.shape == (1, 9, 16)


@pytest.mark.parametrize(
    ("codes", "scales", "groups", "message"),
    [
        ((6, 54), (6, 9), 1, "found \\(6, 54\\)"),
        ((6, 45), (6, 9), 4, "a multiple of 4"),
        ((6, 45), (5, 9), 1, "expected \\[6, 9\\] scales"),
        ((6, 45), (6, 2), 1, "expected \\[6, 9\\] scales, found \\(6, 2\\)"),
    ],
)
def test_packing_refuses_what_does_not_fit(
    codes: tuple[int, int], scales: tuple[int, int], groups: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pack_conv_weight(
            np.zeros(codes, np.uint8), np.ones(scales, np.float16), None, 4, groups, 9, 5, 5
        )


def test_oracle_is_the_standard_convolution() -> None:
    """With float activations: ORT's own Conv on the dequantized weight."""
    case = replace(CASES[2], acts="none")
    inputs, x = case.weights(), case.image(2, 9, 8)
    weight = weight_of(case.operator.layout, inputs["packed"], inputs["scales"], None, None, 8)
    w = weight.transpose(0, 2, 1).reshape(24, 18, 2, 3).astype(np.float32)
    node = helper.make_node(
        "Conv", ["X", "w"], ["c"], group=2, dilations=[2, 1], kernel_shape=[2, 3]
    )
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "XY"]
    nodes = [node, helper.make_node("Relu", ["c"], ["Y"])]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [numpy_helper.from_array(w, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    y = ort.InferenceSession(model.SerializeToString()).run(None, {"X": x})[0]
    expected = case.expected(x, inputs)
    assert np.abs(y - expected).max() < 3e-6 * np.abs(expected).max()


def test_group_that_does_not_divide_the_channels_is_a_tap() -> None:
    assert ConvLayout(8, 1, 9, 40, 64).packed_group_size == 48
    assert ConvLayout(8, 1, 1, 40, 64).packed_group_size == 40
    assert ConvLayout(8, 2, 9, 64, 32).packed_group_size == 32
