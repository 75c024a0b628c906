"""Weights that are sums: two planes of signs, and signs with 8 bits for the values that matter."""

from __future__ import annotations

from itertools import product
from typing import get_args

import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import apply, assert_same, census, parse, run

from bitfold.passes.core.targets import Target
from bitfold.passes.lower.lower import Lower
from bitfold.passes.quantize.dual_binary import dual_binary
from bitfold.passes.quantize.gptq import damp, gptq
from bitfold.passes.quantize.partial_binary import partial_binary
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.errors import RecipeError
from bitfold.runtime.formats.scheme import WeightScheme
from bitfold.runtime.layouts.masked import MASKED_VERSION
from bitfold.runtime.layouts.tiles import LAYOUT_VERSION

BINARY = WeightScheme("binary", 32)
RNG = np.random.default_rng(0)


def f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def gram_of(k: int) -> np.ndarray:
    """A Gram matrix of inputs that hang together, some of them much larger than others."""
    x = (f(500, k // 3 + 1) @ f(k // 3 + 1, k) + f(500, k)) * np.exp(f(k))
    return (x.T @ x / len(x)).astype(np.float64)


def loss(lost: np.ndarray, gram: np.ndarray) -> float:
    return float(np.einsum("nk,kj,nj->", lost, gram, lost, dtype=np.float64))


def test_two_planes_are_found_again() -> None:
    """Sums of two planes come back as they were, whichever plane is the larger."""
    signs = np.where(f(2, 24, 64) > 0, np.float32(1), np.float32(-1))
    scales = np.repeat(np.abs(f(2, 24, 2)) + np.array([0.2, 0.9]).reshape(2, 1, 1), 32, 2)
    weight = (signs * scales.astype(np.float16).astype(np.float32)).sum(0)
    found = dual_binary(weight, np.eye(64), BINARY)
    assert found.plus is not None
    np.testing.assert_allclose(found.dequantize(), weight, atol=2e-3)


def test_near_the_optimum_of_brute_force() -> None:
    """One row of six: all signs of both planes, each pair with its best scales."""
    scheme, shares = WeightScheme("binary", 0, True, "f32"), []
    planes = [np.array(signs) for signs in product((-1.0, 1.0), repeat=6)]
    for seed in range(8):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((64, 6)) @ rng.standard_normal((6, 6))
        gram, row = damp(x.T @ x / 64), rng.standard_normal((1, 6)).astype(np.float32)
        best = np.inf
        root = np.linalg.cholesky(gram)
        for first, second in product(planes[:32], planes):
            pair = np.stack([first, second], 1)
            fit = np.linalg.lstsq(root.T @ pair, root.T @ row[0], rcond=None)[0]
            best = min(best, loss(row - pair @ fit, gram))
        shares.append(loss(row - dual_binary(row, gram, scheme).dequantize(), gram) / best)
    assert min(shares) > 0.999
    assert np.median(shares) < 2


def test_two_planes_beat_other_codes_of_two_bits() -> None:
    """At 2.5 bits a weight each; at 1.5 more than one plane by far."""
    weight, gram = f(64, 192), gram_of(192)
    lost = [
        loss(weight - found.dequantize(), gram)
        for found in (
            dual_binary(weight, gram, WeightScheme("binary", 64)),
            gptq(weight, gram, WeightScheme("int2", 48, False)),
            gptq(weight, gram, WeightScheme("binary", 32)),
        )
    ]
    assert lost[0] < 0.95 * lost[1]
    assert lost[0] < 0.4 * lost[2]


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 1.0])
def test_the_share_that_has_8_bits(share: float) -> None:
    weight, gram = f(48, 64), gram_of(64)
    found = partial_binary(weight, gram, BINARY, salient=share)
    assert found.plus is not None
    kept = np.count_nonzero(found.plus.dequantize())
    assert 0.9 * share * weight.size <= kept <= share * weight.size + 1
    lost = loss(weight - found.dequantize(), gram)
    plain = loss(weight - gptq(weight, gram, BINARY).dequantize(), gram)
    assert lost < {0.0: 1.1, 0.02: 0.95, 0.1: 0.75, 1.0: 0.001}[share] * plain


def test_what_matters_is_salient() -> None:
    """A value whose input is far larger than others is, however small it is itself."""
    gram = np.eye(64)
    gram[5, 5] = 1e6
    weight = f(16, 64)
    weight[:, 5] = 0.1
    found = partial_binary(weight, gram, BINARY, salient=1 / 64)
    assert found.plus is not None
    assert (found.plus.dequantize() != 0).sum(0)[5] == 16
    np.testing.assert_allclose(found.dequantize()[:, 5], 0.1, atol=0.02)


W1, W2, MIXER = f(64, 48), f(48, 64), f(6, 64)
VECTOR = f(48)


def chain() -> ir.Model:
    """A MatMul with a bias behind it and an activation, and a Gemm with neither."""
    body = "a = MatMul(x, w1) b = Add(a, v) t = Relu(b) y = Gemm(t, w2)"
    text = f"g (float[n, 64] x) => (float[n, 64] y) {{ {body} }}"
    return parse(text, w1=W1, w2=W2, v=VECTOR)


def rows(count: int) -> dict[str, np.ndarray]:
    return {"x": f(count, 6) @ MIXER + 0.2 * f(count, 64)}


ACTS = [(target, acts) for target in get_args(Target) for acts in ("int8", "none")]


@pytest.mark.parametrize(("target", "acts"), [*ACTS, ("native", "int4"), ("portable", "int4")])
@pytest.mark.parametrize("method", ["pb", "dual-binary"])
def test_targets(target: str, method: str, acts: str) -> None:
    """Each part is an operator of its own; natively the first adds the second."""
    model, feeds = chain(), rows(16)
    item = Quantize(weights="binary", method=method, acts=acts, target=target)
    entry = apply(item, model, [rows(64)])
    other = "int8" if method == "pb" else "binary"
    assert all(f" + {other}" in record.scheme for record in entry.sites)
    expected = run(model, feeds)
    apply(Lower(target=target), model)
    assert_same(expected, run(model, feeds), 2e-3)
    if target == "native":
        assert census(model) == {"LowBitMatMul": 4, "Relu": 1}
        layouts = [node.attributes.get_int("layout") for node in model.graph if node.domain]
        second = MASKED_VERSION if method == "pb" else LAYOUT_VERSION
        assert sorted(layouts) == [LAYOUT_VERSION, LAYOUT_VERSION, second, second]
    else:
        assert not any(node.domain == "bitfold" for node in model.graph)


@pytest.mark.parametrize("method", ["pb", "dual-binary"])
def test_with_a_branch_and_a_residual(method: str) -> None:
    model = parse(
        "g (float[n, 64] x) => (float[n, 64] y) { a = MatMul(x, w) b = Add(a, v) y = Add(b, x) }",
        w=f(64, 64),
        v=f(64),
    )
    feeds, item = rows(16), Quantize(weights="binary", method=method, rank=4)
    entry = apply(item, model, [rows(64)])
    assert entry.sites[0].scheme.endswith("+ rank 4")
    expected = run(model, feeds)
    apply(Lower(), model)
    assert_same(expected, run(model, feeds), 2e-3)
    assert census(model) == {"LowBitMatMul": 2, "Add": 1}


def test_the_report_counts_both_parts() -> None:
    """As many bytes as the native file has."""
    for method in ("pb", "dual-binary"):
        model = chain()
        entry = apply(Quantize(weights="binary", method=method), model, [rows(64)])
        apply(Lower(), model)
        stored = model.graph.initializers.values()
        held = sum(each.const_value.nbytes for each in stored if each.name not in ("v",))
        tables = sum(each.const_value.nbytes for each in stored if "table" in each.name)
        assert sum(record.bytes_after for record in entry.sites) == held - tables


def test_what_takes_no_sums() -> None:
    """Tables and convolutions are rounded to nearest and by GPTQ."""
    model = parse(
        """g (int64[n] i, float[1, 64, 8, 8] p) => (float[n, 64] a, float[1, 64, 8, 8] c) {
        a = Gather(w, i) c = Conv(p, k) }""",
        w=f(50, 64),
        k=f(64, 64, 1, 1),
    )
    samples = [{"i": np.arange(5), "p": f(1, 64, 8, 8)}]
    entry = apply(Quantize(weights="binary", method="dual-binary"), model, samples)
    assert [record.scheme.count("binary") for record in entry.sites] == [1, 1]


def test_bad_options() -> None:
    with pytest.raises(RecipeError, match="adds to binary weights, and found weights=int4"):
        Quantize(method="pb")
    with pytest.raises(RecipeError, match="salient from 0 to 1, found 5"):
        Quantize(weights="binary", method="pb", salient=5)
