"""The mean error of a rounded weight goes into the bias; measured on inputs far from zero."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bitfold.passes.analysis.conv_shape import ConvShape
from bitfold.passes.analysis.sites import find_sites
from bitfold.passes.core.context import GIVEN, MADE_UP, Context
from bitfold.passes.core.invariants import check_invariants
from bitfold.passes.core.pipeline import Pipeline
from bitfold.passes.quantize.correct_bias import correct_bias, mean_shift
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.execution import open_session

RNG = np.random.default_rng(0)


def f(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def model_with(body: str, **arrays: np.ndarray) -> ir.Model:
    text = f"g (float[n, 32, h, w] x) => (float[n, m, h, w] y) {{ {body} }}"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 23]> {text}')
    for name, array in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def images(count: int, seed: int) -> np.ndarray:
    """Positive inputs, each channel with a mean of its own."""
    rng = np.random.default_rng(seed)
    return np.abs(rng.normal(np.arange(32)[:, None, None] / 8, 1, (count, 32, 9, 7))).astype(
        np.float32
    )


@pytest.mark.parametrize(
    "conv",
    [ConvShape(6, 8, (3, 2), 1), ConvShape(6, 4, (3,), 2), ConvShape(8, 1, (3, 3), 8)],
    ids=str,
)
def test_the_shift_is_the_output_of_constant_channels(conv):
    lost, means = f(conv.n, conv.k), f(conv.channels)
    weight = conv.kernels(lost)
    per_group = conv.n // conv.groups
    expected = [
        sum(weight[n, c].sum() * means[n // per_group * conv.cg + c] for c in range(conv.cg))
        for n in range(conv.n)
    ]
    assert np.allclose(mean_shift(lost, conv, means), expected, atol=1e-4)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("attributes", ["", "<group = 32>", "<group = 4>"])
def test_the_mean_error_vanishes(attributes, bias):
    cg = {"": 32, "<group = 32>": 1, "<group = 4>": 8}[attributes]
    arrays = {"w": f(128, cg, 3, 3)} | ({"b": f(128)} if bias else {})
    errors = {}
    for corrected in (False, True):
        model = model_with(f"y = Conv{attributes}(x, w{', b' * bias})", **arrays)
        probe = {"x": images(16, seed=1)}
        expected = open_session(model).run(probe)["y"]
        with Context(samples=[{"x": images(16, seed=2)}]) as context:
            Quantize(weights="int4", acts="none", correct_bias=corrected).run(model, context)
        check_invariants(model, node_names=False)
        found = open_session(model, op_library=False).run(probe)["y"]
        errors[corrected] = np.square((found - expected).mean((0, 2, 3))).mean()
        told = any("corrected for the mean error" in note for note in context.entry.notes)
        assert told == corrected
    assert errors[True] < errors[False] / 25


def test_convolutions_with_one_weight_keep_their_own_biases():
    body = "a = Conv(x, w, b)  r = Neg(a)  c = Conv(r, w, b)  y = Add(a, c)"
    model = model_with(body, w=f(32, 32, 1, 1), b=f(32))
    with Context(samples=[{"x": images(4, seed=2)}]) as context:
        Quantize(weights="int4").run(model, context)
    first, second = (node for node in model.graph if node.op_type == "Conv")
    assert first.inputs[2] is not second.inputs[2]
    arrays = [node.inputs[2].const_value.numpy() for node in (first, second)]
    assert not np.allclose(*arrays)


def test_a_computed_bias_stays():
    body = "s = ReduceMean<keepdims = 0>(x, axes)  y = Conv(x, w, s)"
    model = model_with(body, w=f(32, 32, 3, 3), axes=np.array([0, 2, 3]))
    with Context(samples=[{"x": images(1, seed=2)}]) as context:
        Quantize(weights="int4").run(model, context)
    assert not context.entry.notes
    (conv,) = (node for node in model.graph if node.op_type == "Conv")
    assert conv.inputs[2].name == "s"


def test_without_inputs_to_run_the_report_says_so():
    model = model_with("y = Conv(x, w)", w=f(32, 32, 3, 3))
    with Context() as context:
        Quantize(weights="int4").run(model, context)
    assert "not corrected" in context.entry.notes[0]
    (conv,) = (node for node in model.graph if node.op_type == "Conv")
    assert len(conv.inputs) == 2


def test_calibration_inputs_go_before_samples():
    model = model_with("y = Conv(x, w)", w=f(32, 32, 3, 3))
    wrong, right = [{"x": -images(4, seed=2)}], [{"x": images(4, seed=2)}]
    biases = []
    for context in (Context(samples=right), Context(samples=wrong, calibration=right)):
        copy = model.clone()
        with context:
            Quantize(weights="int4").run(copy, context)
        (conv,) = (node for node in copy.graph if node.op_type == "Conv")
        biases.append(conv.inputs[2].const_value.numpy())
    assert np.array_equal(*biases)


@pytest.mark.parametrize(
    ("weights", "made_up", "calibrated", "expected"),
    [
        ("int8", True, False, False),
        ("int8", True, True, True),
        ("int8", False, False, True),
        ("int4", True, False, True),
    ],
)
def test_made_up_inputs_are_not_trusted_at_eight_bits(weights, made_up, calibrated, expected):
    model = model_with("y = Conv(x, w)", w=f(32, 32, 3, 3))
    feeds = [{"x": images(1, seed=2)}]
    origin = MADE_UP if made_up else GIVEN
    with Context(samples=feeds, calibration=feeds * calibrated, origin=origin) as context:
        Quantize(weights=weights).run(model, context)
    (conv,) = (node for node in model.graph if node.op_type == "Conv")
    assert (len(conv.inputs) == 3) == expected


def test_a_pipeline_knows_whether_it_made_its_samples_up():
    model = model_with("y = Conv(x, w)", w=f(32, 32, 3, 3))
    for given in ([], [{"x": images(1, seed=2)}]):
        with Context(samples=given) as context:
            Pipeline([Quantize(weights="int8")], context).run(model.clone())
        assert context.made_up == (not given)


def test_means_that_are_not_finite_leave_the_bias_as_it_is():
    body = "l = Log(x)  a = Conv(l, v, b)  c = Conv(x, w, b)  y = Add(a, c)"
    model = model_with(body, v=f(32, 32, 1, 1), w=f(32, 32, 1, 1), b=f(32))
    with Context(samples=[{"x": f(1, 32, 9, 7)}]) as context:  # half of them below 0
        Quantize(weights="int4").run(model, context)
    first, second = (node for node in model.graph if node.op_type == "Conv")
    assert first.inputs[2].name == "b"
    assert second.inputs[2].name != "b"
    assert np.isfinite(second.inputs[2].const_value.numpy()).all()
    assert any("1 of 2 inputs of weights are not finite" in n for n in context.entry.notes)
    assert any(note.startswith("1 bias corrected") for note in context.entry.notes)


@pytest.mark.parametrize("bias", [False, True])
def test_a_bias_beyond_float32_is_not_written(bias):
    model = model_with(f"y = Conv(x, w{', b' * bias})", w=f(32, 32, 3, 3), b=f(32))
    (site,) = find_sites(model)
    with Context() as context:
        assert not correct_bias(site, f(32, 9 * 32), np.full(32, 1e38), context)
        assert len(site.node.inputs) == 2 + bias
        assert correct_bias(site, f(32, 9 * 32), np.full(32, 1e30), context)
