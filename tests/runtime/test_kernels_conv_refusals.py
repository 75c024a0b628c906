"""``LowBitConv`` nodes that are refused: bad attributes, truncated weights, wrong images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.conv_nodes import ConvCase, conv_model, conv_session
from support.lowbit_nodes import session

CASE = ConvCase(
    40, 96, (3, 3), 4, pads=(1, 1, 1, 1), group=32, act_group=32, zero_points=True, table=True
)
BIASED = ConvCase(40, 96, (3, 3), 4, group=32, zero_points=True, table=True, bias=True)
HUGE = 1 << 62


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": 4}, "'layout': expected 3, found 4"),
        ({"bits": 0}, "'bits': expected 1 to 8, found 0"),
        ({"bits": 9}, "'bits': expected 1 to 8, found 9"),
        ({"N": 0}, "'N': expected 1 to"),
        ({"N": -40}, "'N': expected 1 to"),
        ({"N": HUGE}, "'N': expected 1 to"),
        ({"C": 0}, "'C': expected 1 to"),
        ({"C": HUGE}, "'C': expected 1 to"),
        ({"groups": 0}, "'groups': expected 1 to"),
        ({"groups": HUGE}, "'groups': expected 1 to"),
        ({"groups": 3}, "'groups': expected a divisor of N = 40, found 3"),
        ({"groups": 5}, "'groups': expected a divisor of C = 96, found 5"),
        ({"kernel_shape": [3, 3, 3]}, "'kernel_shape': expected 1 or 2 ints, found 3"),
        ({"kernel_shape": [3, 0]}, "'kernel_shape': expected 1 to 1048576, found 0"),
        ({"kernel_shape": [-3, 3]}, "'kernel_shape': expected 1 to"),
        ({"kernel_shape": [HUGE, 3]}, "'kernel_shape': expected 1 to"),
        ({"kernel_shape": [1 << 20, 1 << 20]}, "expected at most 1073741824 inputs"),
        ({"kernel_shape": [3]}, "'strides': expected 1 ints, found 2"),
        ({"strides": [1]}, "'strides': expected 2 ints, found 1"),
        ({"strides": [0, 1]}, "'strides': expected 1 to 1048576, found 0"),
        ({"strides": [1, HUGE]}, "'strides': expected 1 to"),
        ({"pads": [1, 1]}, "'pads': expected 4 ints, found 2"),
        ({"pads": [1, -1, 1, 1]}, "'pads': expected 0 to 1048576, found -1"),
        ({"pads": [1, 1, HUGE, 1]}, "'pads': expected 0 to"),
        ({"dilations": [1, 1, 1]}, "'dilations': expected 2 ints, found 3"),
        ({"dilations": [0, 1]}, "'dilations': expected 1 to"),
        ({"group_size": 0}, "'group_size': expected 96 or a multiple of 16 that divides 96"),
        ({"group_size": -32}, "'group_size'"),
        ({"group_size": 24}, "'group_size'"),
        ({"group_size": 64}, "'group_size': expected 96 or a multiple of 16 that divides 96"),
        ({"group_size": 864}, "'group_size': expected 96 or a multiple of 16 that divides 96"),
        ({"group_size": HUGE}, "'group_size': expected 96 or a multiple of 16 that divides 96"),
        ({"act_group_size": 48}, "'act_group_size': expected C / groups = 96 or group_size = 32"),
        ({"act_group_size": 0}, "'act_group_size'"),
        ({"acts": "int4"}, "'acts': expected 'none' or 'int8', found 'int4'"),
        (
            {"activation": "gelu"},
            "'activation': expected 'none', 'relu', 'clip' or 'hardswish', found 'gelu'",
        ),
        ({"activation": "clip", "clip_min": 1.0}, "expected clip_min <= clip_max"),
        ({"activation": "clip", "clip_max": float("nan")}, "expected clip_min <= clip_max"),
        ({"N": 64}, "packed: expected 27648 elements, found 20736"),
        ({"C": 128, "act_group_size": 128}, "packed: expected 27648 elements"),
        ({"kernel_shape": [3, 5]}, "packed: expected 34560 elements"),
        ({"bits": 5}, "packed: expected 25920 elements"),
        ({"group_size": 16, "act_group_size": 16}, "scales: expected 2592 elements, found 1296"),
        ({"groups": 2, "group_size": 16, "act_group_size": 16}, "packed: expected"),
    ],
)
def test_attributes(change: dict[str, Any], message: str) -> None:
    model = conv_model({**CASE.attributes(), **change}, CASE.weights())
    with pytest.raises(Exception, match="LowBitConv: ") as caught:
        session(model)
    assert message in str(caught.value)


def test_depthwise_takes_float_activations_alone() -> None:
    case = ConvCase(16, 16, (3, 3), 8, groups=16, acts="none")
    model = conv_model({**case.attributes(), "acts": "int8"}, case.weights())
    with pytest.raises(Exception, match="'acts': expected 'none' with one channel a conv group"):
        session(model)


NAMES = ["N", "C", "groups", "kernel_shape", "strides", "pads", "dilations", "bits"]
NAMES += ["group_size", "layout", "acts", "act_group_size", "activation"]


@pytest.mark.parametrize("name", NAMES)
def test_missing_attribute(name: str) -> None:
    attributes = {key: value for key, value in CASE.attributes().items() if key != name}
    with pytest.raises(Exception, match=f"'{name}'.*found (none|0)"):
        session(conv_model(attributes, CASE.weights()))


@pytest.mark.parametrize("value", ["", "1", 2, [1.0], [1]])
@pytest.mark.parametrize("name", ["out_scale", "out_shift"])
def test_optional_attribute_of_another_type(name: str, value: Any) -> None:
    """It is not taken for one that is left out."""
    with pytest.raises(Exception, match=f"'{name}': expected a float, found another type"):
        session(conv_model({**CASE.attributes(), name: value}, CASE.weights()))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["out_scale", "out_shift"])
def test_outputs_cannot_be_moved_to_infinity(name: str, value: float) -> None:
    with pytest.raises(Exception, match="'out_scale' and 'out_shift': expected finite numbers"):
        session(conv_model({**CASE.attributes(), name: value}, CASE.weights()))


def test_clip_needs_its_bounds() -> None:
    attributes = {**CASE.attributes(), "activation": "clip"}
    del attributes["clip_max"]
    with pytest.raises(Exception, match="float attribute 'clip_max', found none"):
        session(conv_model(attributes, CASE.weights()))


@pytest.mark.parametrize("name", ["packed", "scales", "zero_points", "table", "bias"])
@pytest.mark.parametrize("keep", [0, -1])
def test_truncated_weight(name: str, keep: int) -> None:
    """Refused when the session opens, or, where the weight is fed, when it runs."""
    weights = BIASED.weights()
    weights[name] = weights[name].reshape(-1)[:keep]
    with pytest.raises(Exception, match=f"LowBitConv: {name}: expected"):
        session(conv_model(BIASED.attributes(), weights))
    fed = session(conv_model(BIASED.attributes(), weights, constant=False))
    with pytest.raises(Exception, match=f"{name}: expected"):
        fed.run(None, {"X": BIASED.image(1, 5, 5), **weights})


def test_scales_of_another_type() -> None:
    weights = CASE.weights()
    weights["scales"] = weights["scales"].astype(np.float64)
    with pytest.raises(Exception, match="scales: expected type float16, float32, bfloat16"):
        session(conv_model(CASE.attributes(), weights))


def test_group_that_could_overflow() -> None:
    """127 * 255 * group must stay below 2**31."""
    with pytest.raises(Exception, match="'group_size': expected at most 65536"):
        conv_session(ConvCase(1, 65552, (1, 1), 1))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((), "X: expected \\[n, 96\\] and 2 spatial sizes, found \\[\\]"),
        ((1, 96, 8), "2 spatial sizes, found \\[1, 96, 8\\]"),
        ((1, 96, 8, 8, 8), "2 spatial sizes"),
        ((1, 95, 8, 8), "found \\[1, 95, 8, 8\\]"),
        ((1, 96, 0, 8), "padded spatial size of at least 3, the window's, found 2"),
        ((1, 96, 8, 0), "padded spatial size of at least 3"),
    ],
)
def test_images_of_another_shape(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(Exception, match=message):
        conv_session(CASE).run(None, {"X": np.zeros(shape, np.float32)})


def test_weights_that_are_fed() -> None:
    weights = BIASED.weights()
    fed = session(conv_model(BIASED.attributes(), weights, constant=False))
    x = BIASED.image(2, 6, 7)
    y = fed.run(None, {"X": x, **weights})[0]
    assert y.tobytes() == conv_session(BIASED).run(None, {"X": x})[0].tobytes()


def test_shapes_are_inferred() -> None:
    """Sizes that are known; others keep their symbol or get one that says how it was made."""
    case = ConvCase(40, 96, (3, 3), 4, pads=(1, 0, 1, 0), strides=(2, 2), dilations=(1, 2))
    model = conv_model(case.attributes(), case.weights())
    for size in ("batch", 96, 33, "width"):
        dim = model.graph.input[0].type.tensor_type.shape.dim.add()
        if isinstance(size, str):
            dim.dim_param = size
        else:
            dim.dim_value = size
    y = session(model).get_outputs()[0]
    assert y.shape == ["batch", 40, 17, "(width + -5) / 2 + 1"]


@pytest.mark.parametrize("shape", [(1, 96, 6, 6), (96, 6, 6), (1,), (1, 48, 8, 8)])
def test_residual_of_another_shape(shape: tuple[int, ...]) -> None:
    weights = {**CASE.weights(), "residual": np.zeros(shape, np.float32)}
    with pytest.raises(Exception, match=r"residual: expected float32 of Y's shape, \[1, "):
        session(conv_model(CASE.attributes(), weights)).run(None, {"X": CASE.image(1, 8, 8)})
