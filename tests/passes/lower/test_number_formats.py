"""Every number format and type of scales through quantize and lower: one weight, three readers."""

import copy

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.graphs import apply, assert_same, parse, run

from bitfold.passes.lower.lower import Lower
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.errors import UnsupportedError
from bitfold.runtime.execution import open_session
from bitfold.runtime.formats import FAMILIES, FORMATS
from bitfold.runtime.formats.scale_types import DTYPES

RNG = np.random.default_rng(11)
GROUPS = (16, 32, 64, 128, 256, 0)
INTEGRAL = [name for name, number in FORMATS.items() if number.integral]
FLOATS = [name for name in FORMATS if name not in INTEGRAL]


def f(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def readers():
    """A table of 40 rows of 272 looked up, multiplied by, and a convolution."""
    model = parse(
        """g (int64[b, s] ids, float[b, 32, h, w] image)
           => (float[b, s, 48] y, float[b, 24, h, w] z) {
            x = Gather(table, ids)
            y = MatMul(x, w)
            z = Conv<pads = [1, 1, 1, 1]>(image, kernels)
        }""",
        table=f(40, 272),
        w=f(272, 48),
        kernels=f(24, 32, 3, 3),
    )
    for number, node in enumerate(model.graph):
        node.name = f"node{number}"
    return model


FEEDS = {"ids": RNG.integers(0, 40, (2, 5)), "image": f(2, 32, 5, 6)}


@pytest.mark.parametrize("acts", ["int8", "none"])
@pytest.mark.parametrize("name", [*FORMATS, *FAMILIES])
def test_native_operators_compute_the_neutral_form(name, acts):
    if acts == "int8" and name in FLOATS:
        with pytest.raises(UnsupportedError, match="multiply integers"):
            Quantize(weights=name, acts=acts)
        return
    at = [*FORMATS, *FAMILIES].index(name)
    for step in range(2):
        group, kind = GROUPS[(at + 3 * step) % 6], [*DTYPES][(at + step) % 5]
        model = readers()
        apply(Quantize(weights=name, group=group, acts=acts, scales=kind), model)
        neutral = run(model, FEEDS)
        apply(Lower(), model)
        onnx.checker.check_model(ir.to_proto(model))
        assert_same(neutral, run(model, FEEDS), 1e-5)
        # The same file where there is no library.
        alone = open_session(copy.deepcopy(model), op_library=False).run(FEEDS)
        assert_same(neutral, alone, 1e-5)
        types = {v.dtype for v in model.graph.initializers.values() if "scales" in v.name}
        assert types == {ir.DataType.from_numpy(DTYPES[kind])}


@pytest.mark.parametrize("name", ["binary", "nf4", "fp4", "fp6_e2m3", "pot4", "quinary", "power3"])
def test_stock_operators_store_levels_as_integers(name):
    kind = {"fp4": "e8m0", "nf4": "bf16"}.get(name, "f16")
    for target in ("ort", "portable"):
        model = readers()
        apply(Quantize(weights=name, group=32, acts="none", scales=kind, target=target), model)
        neutral = run(model, FEEDS)
        apply(Lower(target=target), model)
        assert_same(neutral, run(model, FEEDS), 1e-5)


@pytest.mark.parametrize("target", ["ort", "portable"])
@pytest.mark.parametrize("name", FLOATS)
def test_stock_operators_refuse_levels_that_are_floats(target, name):
    model = readers()
    apply(Quantize(weights=name, acts="none", target=target), model)
    with pytest.raises(UnsupportedError, match="stores weights as integers") as error:
        apply(Lower(target=target), model)
    assert "native" in error.value.hint


def test_error_falls_as_formats_get_finer():
    """Weights of a normal distribution: what each format loses, in the order of the papers."""
    lost = {}
    x = f(1, 64, 256)
    for name, kind, group in (
        ("binary", "f16", 32),
        ("pot3", "f16", 32),
        ("pot4", "f16", 32),
        ("fp4", "e8m0", 32),  # MXFP4
        ("fp4", "e4m3", 16),  # NVFP4
        ("nf4", "f16", 32),
        ("apot5", "f16", 32),
        ("fp6_e2m3", "e8m0", 32),  # MXFP6
        ("fp8_e4m3", "e8m0", 32),  # MXFP8
        ("int8", "e8m0", 32),  # MXINT8
    ):
        rng = np.random.default_rng(3)
        weight = rng.standard_normal((256, 128), np.float32)
        model = parse(
            "g (float[b, m, 256] x) => (float[b, m, 128] y) { y = MatMul(x, w) }", w=weight
        )
        apply(Quantize(weights=name, group=group, acts="none", scales=kind), model)
        y, exact = run(model, {"x": x})["y"], x @ weight
        lost[name, kind] = float(np.square(y - exact).sum() / np.square(exact).sum())
    for coarse, fine in (("binary", "pot3"), ("pot3", "nf4"), ("pot4", "nf4"), ("nf4", "apot5")):
        assert lost[coarse, "f16"] > lost[fine, "f16"], lost
    assert lost["fp4", "e8m0"] > lost["fp4", "e4m3"] > lost["fp6_e2m3", "e8m0"], lost
    assert lost["int8", "e8m0"] == min(lost.values()), lost
