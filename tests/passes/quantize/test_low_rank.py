"""Low-rank branches: the closed form against its bound, and whole models on every target."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import apply, assert_same, census, parse, run

from bitfold.passes.core.targets import Target
from bitfold.passes.lower.lower import Lower
from bitfold.passes.quantize.gptq import damp, gptq
from bitfold.passes.quantize.low_rank import fit_branch, quantize_beside
from bitfold.passes.quantize.quantize import Quantize
from bitfold.passes.quantize.rounding import round_to_nearest
from bitfold.runtime.errors import RecipeError
from bitfold.runtime.formats.scheme import WeightScheme

RNG = np.random.default_rng(0)


def f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def gram_of(k: int) -> np.ndarray:
    """A Gram matrix of inputs that hang together, some of them much larger than others."""
    x = (f(500, k // 3) @ f(k // 3, k) + f(500, k)) * np.exp(f(k))
    return (x.T @ x / len(x)).astype(np.float64)


def loss(lost: np.ndarray, gram: np.ndarray) -> float:
    return float(np.einsum("nk,kj,nj->", lost, gram, lost, dtype=np.float64))


@pytest.mark.parametrize(("n", "k"), [(24, 40), (40, 24), (32, 32)])
@pytest.mark.parametrize("informed", [False, True])
def test_nearest_of_its_rank(n: int, k: int, informed: bool) -> None:
    """What is left is the singular values beyond the rank: nothing can do better."""
    lost, gram = f(n, k), gram_of(k)
    metric = damp(gram) if informed else np.eye(k)
    values = np.linalg.svd(lost @ np.linalg.cholesky(metric), compute_uv=False)
    for rank in (1, 5, 23):
        branch = fit_branch(lost, rank, gram if informed else None)
        assert branch.down.dtype == np.float16
        assert (branch.up.shape, branch.down.shape) == ((n, rank), (rank, k))
        left = loss(lost - branch.weight(), metric)
        assert left == pytest.approx((values[rank:] ** 2).sum(), rel=0.01)


def test_a_branch_holds_a_matrix_of_its_rank() -> None:
    wide = f(30, 3) @ f(3, 50)
    np.testing.assert_allclose(fit_branch(wide, 3).weight(), wide, atol=0.01)
    assert not fit_branch(np.zeros((8, 8), np.float32), 2).weight().any()
    assert fit_branch(wide * 1e12, 3).down.dtype == np.float32


def test_each_way_beats_codes_alone() -> None:
    """At 3 bits, of a weight with a few large directions as trained ones have."""
    weight, gram = f(64, 4) @ f(4, 96) + f(64, 96), gram_of(96)
    scheme = WeightScheme("int3", 32, False)
    plain = loss(weight - round_to_nearest(weight, scheme).dequantize(), gram)
    best = loss(weight - gptq(weight, gram, scheme).dequantize(), gram)
    for start in ("error", "weight"):
        codes, branch = quantize_beside(
            weight, None, 8, start, lambda rest: round_to_nearest(rest, scheme)
        )
        blind = loss(weight - codes.dequantize() - branch.weight(), gram)
        codes, branch = quantize_beside(
            weight, gram, 8, start, lambda rest: round_to_nearest(rest, scheme)
        )
        told = loss(weight - codes.dequantize() - branch.weight(), gram)
        codes, branch = quantize_beside(
            weight, gram, 8, start, lambda rest: gptq(rest, gram, scheme)
        )
        both = loss(weight - codes.dequantize() - branch.weight(), gram)
        assert told < 0.5 * blind < 0.5 * plain
        assert both < 0.7 * best


W1, W2, MIXER = f(64, 48), f(48, 64), f(6, 64)
BIAS = f(64)


def chain() -> ir.Model:
    """A MatMul with a bias, and a Gemm with one."""
    body = "a = MatMul(x, w1) t = Tanh(a) y = Gemm(t, w2, bias)"
    text = f"g (float[n, 64] x) => (float[n, 64] y) {{ {body} }}"
    return parse(text, w1=W1, w2=W2, bias=BIAS)


def rows(count: int) -> dict[str, np.ndarray]:
    return {"x": f(count, 6) @ MIXER + 0.2 * f(count, 64)}


def error(item: Quantize) -> float:
    model, feeds = chain(), rows(64)
    expected = run(model, feeds)["y"]
    apply(item, model, [rows(128), rows(128)])
    return float(np.square(run(model, feeds)["y"] - expected).mean())


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_models_get_closer(method: str) -> None:
    plain = Quantize(weights="int3", method=method)
    nearest = error(plain)
    for start in ("error", "weight"):
        assert error(replace(plain, rank=8, low_rank=start)) < 0.6 * nearest


@pytest.mark.parametrize("target", get_args(Target))
@pytest.mark.parametrize("acts", ["int8", "none"])
def test_targets(target: str, acts: str) -> None:
    """Natively the branches are part of the operators; stock operators run them beside."""
    model, feeds = chain(), rows(16)
    entry = apply(Quantize(rank=4, acts=acts), model, [rows(64)])
    assert all("+ rank 4" in record.scheme for record in entry.sites)
    expected = run(model, feeds)
    apply(Lower(target=target), model)
    assert_same(expected, run(model, feeds), 2e-3)
    counts = census(model)
    stored = model.graph.initializers.values()
    factors = [each for each in stored if "branch" in each.name or "low_rank" in each.name]
    assert {each.dtype for each in factors} == {ir.DataType.FLOAT16}
    assert sum(each.const_value.nbytes for each in factors) == 2 * 2 * 4 * (64 + 48)
    if target == "native":
        assert counts == {"LowBitMatMul": 2, "Tanh": 1}
    else:
        assert counts["LowBitMatMul"] == 0
        assert counts["Cast"] == 4


def test_the_report_counts_the_bytes() -> None:
    sizes = []
    for rank in (0, 4):
        entry = apply(Quantize(rank=rank), chain(), [rows(64)])
        sizes.append(sum(record.bytes_after for record in entry.sites))
    assert sizes[1] - sizes[0] == 2 * 2 * 4 * (64 + 48)


def test_what_has_no_branch() -> None:
    """Tables, convolutions, and weights that a branch would double; branches are not quantized."""
    model = parse(
        """g (int64[n] i, float[n, 64] x, float[1, 64, 8, 8] p)
        => (float[n, 64] a, float[n, 64] b, float[1, 64, 8, 8] c) {
        a = Gather(w, i) b = MatMul(x, m) c = Conv(p, k) }""",
        w=f(50, 64),
        m=f(64, 64),
        k=f(64, 64, 1, 1),
    )
    entry = apply(Quantize(rank=32), model)
    assert not any("rank" in record.scheme for record in entry.sites)
    entry = apply(Quantize(rank=31), chain())
    assert not any("rank" in record.scheme for record in entry.sites)
    model = chain()
    apply(Quantize(rank=8), model)
    assert not apply(Quantize(weights="int8"), model).sites


def test_a_vector_times_a_matrix() -> None:
    model = parse("g (float[64] x) => (float[48] y) { y = MatMul(x, w1) }", w1=W1)
    feeds = {"x": f(64)}
    expected = run(model, feeds)
    apply(Quantize(weights="int8", acts="none", rank=4), model)
    assert_same(expected, run(model, feeds), 0.02)
    lowered = model.clone()
    apply(Lower(), lowered)
    assert_same(run(model, feeds), run(lowered, feeds), 1e-4)
    assert census(lowered)["MatMul"] == 0


def test_ranks_that_no_kernel_takes() -> None:
    with pytest.raises(RecipeError, match="rank from 0 to 512, found 513"):
        Quantize(rank=513)
