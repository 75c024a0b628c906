"""``quantize-attention``: known answers of each quantizer, and what attention makes of them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import apply, census, parse, run

from bitfold.passes.lower.fuse_attention import FuseAttention
from bitfold.passes.lower.lower import Lower
from bitfold.passes.quantize.quantize_attention import EMULATED, QuantizeAttention
from bitfold.runtime.errors import RecipeError
from bitfold.runtime.ops.body import call
from bitfold.runtime.ops.quantize_probabilities import (
    probability_attributes,
    quantize_probabilities,
)
from bitfold.runtime.reference.lowbit_matmul import quantize_activations

RNG = np.random.default_rng(0)
SHAPE = (2, 3, 5, 16)


def f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def rounded(levels: str, bits: int, rows: np.ndarray) -> np.ndarray:
    model = parse("g (float[n, k] x) => (float[n, k] y) { y = Identity(x) }")
    function = quantize_probabilities(levels, bits)
    attributes = probability_attributes(levels, bits)
    node = call(model, function, [model.graph.inputs[0]], attributes, "q")
    node.outputs[0].name = "rounded"
    model.graph.append(node)
    model.graph[0].replace_input_with(0, node.outputs[0])
    model.graph.sort()
    return run(model, {"x": rows.astype(np.float32)})["y"]


def test_powers_of_two() -> None:
    """1, 1/2, ... 1/8 at 2 bits, to the nearest in the logarithm; what is nearer 1/16 is 0."""
    found = rounded("log2", 2, np.array([[1, 0.75, 0.7, 0.3, 0.13, 0.09, 0.08, 0.0]]))
    assert found[0] == pytest.approx([1, 1, 0.5, 0.25, 0.125, 0.125, 0, 0], abs=1e-7)


def test_powers_of_the_root_of_two() -> None:
    root = 0.5**0.5
    found = rounded("log_sqrt2", 2, np.array([[1, 0.75, 0.7, 0.55, 0.4, 0.31, 0.29, 0.0]]))
    assert found[0] == pytest.approx([1, root, root, 0.5, root**3, root**3, 0, 0], abs=1e-7)


def test_even_levels() -> None:
    found = rounded("uniform", 2, np.array([[1, 0.6, 0.5, 0.2, 0.1]]))
    assert found[0] == pytest.approx([1, 2 / 3, 2 / 3, 1 / 3, 0], abs=1e-7)


def test_softmax_aware_signs() -> None:
    """A quarter of each row's own largest is the threshold; the kept have their mean."""
    found = rounded("binary", 1, np.array([[0.6, 0.2, 0.14, 0.06], [0.05, 0.05, 0.05, 0.0]]))
    assert found[0] == pytest.approx([0.4, 0.4, 0, 0], abs=1e-7)
    assert found[1] == pytest.approx([0.05, 0.05, 0.05, 0], abs=1e-7)


def test_the_mean_has_the_least_squared_error_for_its_signs() -> None:
    row = RNG.dirichlet(np.full(40, 0.1), 20)
    found = rounded("binary", 1, row)
    for factor in (0.9, 1.1):
        assert (np.square(found - row).sum(1) < np.square(factor * found - row).sum(1)).all()


def attention(mask: str = "") -> ir.Model:
    given = {"float": ", float[b, 1, s, s] m", "bool": ", bool[b, 1, s, s] m"}.get(mask, "")
    return parse(
        f"g (float[b, 3, s, 16] q, float[b, 3, s, 16] k, float[b, 3, s, 16] v{given}) => "
        f"(float[b, 3, s, 16] y) {{ y = Attention(q, k, v{', m' * bool(mask)}) }}"
    )


def feeds(mask: str) -> dict[str, np.ndarray]:
    given = dict(zip("qkv", (2 * f(*SHAPE), 2 * f(*SHAPE), f(*SHAPE)), strict=True))
    seen = RNG.random((2, 1, 5, 5)) < 0.7
    seen[..., 0] = True
    masks = {"bool": seen, "float": np.where(seen, 0, -1e9).astype(np.float32)}
    return given | ({"m": masks[mask]} if mask else {})


@pytest.mark.parametrize("mask", ["", "float", "bool"])
def test_attention_taken_apart_is_the_same(mask: str) -> None:
    """At 8 bits of even levels next to nothing is lost; at 2 bits much is."""
    given, lost = feeds(mask), []
    for bits in (8, 2):
        model = attention(mask)
        exact = run(model, given)["y"]
        entry = apply(QuantizeAttention(probabilities="uniform", bits=bits, kv=0), model)
        assert entry.notes == [EMULATED]
        assert "emulated" in entry.changes[0].text
        lost.append(np.abs(run(model, given)["y"] - exact).max())
    assert lost[0] < 0.02 < lost[1]


@pytest.mark.parametrize("target", ["native", "ort", "portable"])
def test_every_target_runs_it(target: str) -> None:
    given, model = feeds("float"), attention("float")
    item = QuantizeAttention(probabilities="log_sqrt2", kv=4)
    apply(item, model)
    expected = run(model, given)["y"]
    apply(FuseAttention(target=target), model)
    apply(Lower(target=target), model)
    assert target == "native" or not model.functions
    assert np.abs(run(model, given)["y"] - expected).max() < 1e-5


@pytest.mark.parametrize("bits", [8, 4])
def test_the_cache_holds_rounded_entries(bits: int) -> None:
    model = parse(
        "g (float[b, 3, s, 16] q, float[b, 3, s, 16] k, float[b, 3, s, 16] v, "
        "float[b, 3, p, 16] pk, float[b, 3, p, 16] pv) => (float[b, 3, s, 16] y, "
        "float[b, 3, t, 16] key, float[b, 3, t, 16] value) "
        "{ y, key, value = Attention(q, k, v, , pk, pv) }"
    )
    given = feeds("") | {"pk": f(2, 3, 2, 16), "pv": f(2, 3, 2, 16)}
    entry = apply(QuantizeAttention(kv=bits, probabilities="log2"), model)
    assert "cache" in entry.skips[0].text
    found = run(model, given)
    for name, past in (("k", "pk"), ("v", "pv")):
        kept = found["key" if name == "k" else "value"]
        assert np.array_equal(kept[:, :, :2], given[past])
        codes, scale = quantize_activations(given[name].reshape(-1, 16), 16, bits)
        assert np.allclose(kept[:, :, 2:].reshape(-1, 16), codes * scale, atol=1e-6)


def test_what_it_leaves_alone() -> None:
    text = (
        "g (float[b, 3, s, 16] q, float[b, 3, s, 16] k, float[b, 3, s, 16] v) => "
        "(float[b, 3, s, 16] y) { y = Attention <is_causal = 1> (q, k, v) }"
    )
    model = parse(text)
    entry = apply(QuantizeAttention(probabilities="log2", kv=0), model)
    assert entry.skips[0].text == "probabilities: it is causal"
    assert census(model) == {"Attention": 1}
    assert not entry.notes


@pytest.mark.parametrize("options", [{"kv": 0}, {"kv": 5}, {"probabilities": "log2", "bits": 9}])
def test_bad_options(options: dict) -> None:
    with pytest.raises(RecipeError):
        QuantizeAttention(**options)
