"""Convolutions as sites: float, in the neutral quantized form, and near misses."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bitfold.passes.analysis.conv_shape import ConvShape
from bitfold.passes.analysis.near_misses import near_miss
from bitfold.passes.analysis.sites import find_sites
from bitfold.passes.core.context import Context
from bitfold.passes.quantize.quantize import Quantize


def model_with(body: str, dims: str = "n, 32, h, w", **weights: tuple[int, ...]) -> ir.Model:
    text = f"g (float[{dims}] x) => (float[{dims}] y) {{ {body} }}"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 23]> {text}')
    rng = np.random.default_rng(0)
    for name, shape in weights.items():
        array = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(model)


def test_columns_are_tap_by_tap():
    weight = np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    shape = ConvShape(2, 3, (2, 2), groups=1)
    columns = shape.columns(weight)
    assert columns[1].tolist() == [
        weight[1, c, i, j] for i in (0, 1) for j in (0, 1) for c in range(3)
    ]
    assert np.array_equal(shape.kernels(columns), weight)


@pytest.mark.parametrize(
    ("attributes", "dims", "shape", "expected"),
    [
        ("", "n, 32, h, w", (48, 32, 3, 3), ConvShape(48, 32, (3, 3), 1)),
        ("<group = 4>", "n, 32, h, w", (48, 8, 3, 1), ConvShape(48, 8, (3, 1), 4)),
        ("<group = 32>", "n, 32, h, w", (64, 1, 5, 5), ConvShape(64, 1, (5, 5), 32)),
        ("", "n, 32, t", (48, 32, 3), ConvShape(48, 32, (3,), 1)),
    ],
)
def test_a_conv_is_the_same_site_before_and_after_quantizing(attributes, dims, shape, expected):
    model = model_with(f"y = Conv {attributes} (x, w)", dims, w=shape)
    array = model.graph.initializers["w"].const_value.numpy()
    (site,) = find_sites(model)
    assert (site.kind, site.conv, site.quantized) == ("conv", expected, None)
    assert site.shape == (expected.n, expected.cg * expected.taps)
    assert np.array_equal(expected.kernels(site.weight()), array)
    with Context() as context:
        assert Quantize(weights="int8").run(model, context)
    (after,) = find_sites(model)
    assert (after.kind, after.conv, after.shape) == ("conv", expected, site.shape)
    assert after.quantized is not None
    assert after.node is site.node
    assert "w" not in model.graph.initializers


def test_a_reshape_of_other_weights_is_no_site():
    """Only the order that quantize writes is understood."""
    model = model_with("y = Conv(x, w)", w=(32, 32, 3, 3))
    with Context() as context:
        Quantize(weights="int8").run(model, context)
    (site,) = find_sites(model)
    site.transpose.attributes["perm"] = ir.AttrInt64s("perm", [0, 3, 2, 1])
    assert not list(find_sites(model))


@pytest.mark.parametrize(
    ("body", "dims", "weights", "reason"),
    [
        ("y = Conv(x, w)", "n, 32, d, h, w", {"w": (32, 32, 3, 3, 3)}, "3 axes"),
        ("v = Abs(w)  y = Conv(x, v)", "n, 32, h, w", {"w": (32, 32, 3, 3)}, "computed, by Abs"),
        (
            'y = Conv <auto_pad = "SAME_UPPER"> (x, w)',
            "n, 32, h, w",
            {"w": (32, 32, 3, 3)},
            "SAME_UPPER",
        ),
        ("y = ConvTranspose(x, w)", "n, 32, h, w", {"w": (32, 32, 3, 3)}, "transposed"),
    ],
)
def test_near_misses_say_why(body, dims, weights, reason):
    model = model_with(body, dims, **weights)
    assert not list(find_sites(model))
    found = [text for text in map(near_miss, model.graph) if text]
    assert len(found) == 1
    assert reason in found[0]


def test_a_kernel_that_callers_may_replace_is_no_site():
    model = model_with("y = Conv(x, w)", w=(32, 32, 3, 3))
    model.graph.inputs.append(model.graph.initializers["w"])
    assert not list(find_sites(model))
    assert "graph input" in near_miss(model.graph.node(0))
