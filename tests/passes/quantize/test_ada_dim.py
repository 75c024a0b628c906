"""``method=ada-dim``: outlier inputs get scales of their own, in the operator too."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import apply, parse, run

from bitfold.passes.lower.lower import Lower
from bitfold.passes.quantize.ada_dim import input_scales, output_loss
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.errors import RecipeError
from bitfold.runtime.formats.scheme import WeightScheme

RNG = np.random.default_rng(0)
N, K = 64, 96


def f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


EVEN = f(N, K)
EVEN /= np.sqrt(np.square(EVEN).mean(0))
"""A weight [N, K] all of whose inputs are alike."""
OUTLIERS = EVEN * np.where(np.arange(K) % 11 == 0, 20, 1).astype(np.float32)
"""One of which every group of 32 inputs has a few large ones."""


def net(weight: np.ndarray, tail: str = "y = Tanh(p)") -> ir.Model:
    return parse(
        f"""g (float[n, {K}] x) => (float[n, {N}] y) {{
            wt = Transpose(w)
            p = MatMul(x, wt)
            {tail}
        }}""",
        w=weight,
    )


def test_scales_isolate_outlier_inputs() -> None:
    scheme, weight = WeightScheme("int4", 32, True), OUTLIERS
    scales = input_scales(weight, None, scheme, "mse")
    assert scales is not None
    assert scales[::11].min() > 3 * np.delete(scales, np.s_[::11]).max()
    assert input_scales(EVEN, None, scheme, "mse") is None
    assert input_scales(np.zeros((N, K), np.float32), None, scheme, "mse") is None


def test_the_outputs_decide() -> None:
    """Outlier inputs that matter alone are served best by the groups' own scales."""
    scheme, weight = WeightScheme("int4", 32, True), OUTLIERS
    energy = np.where(np.arange(K) % 11 == 0, 1.0, 1e-6)
    assert input_scales(weight, np.diag(energy), scheme, "mse") is None
    assert output_loss(weight, np.diag(energy)) == pytest.approx(
        float((np.square(weight.astype(np.float64)) * energy).sum())
    )


def lost(method: str, acts: str) -> tuple[float, ir.Model]:
    model, x = net(OUTLIERS), f(256, K)
    x[:, ::11] /= 20
    exact = np.tanh(x @ OUTLIERS.T)
    apply(Quantize(weights="int4", method=method, acts=acts), model, [{"x": x}, {"x": x}])
    return float(np.square(run(model, {"x": x})["y"] - exact).sum()), model


def test_less_is_lost_than_by_gptq_alone() -> None:
    assert lost("ada-dim", "none")[0] < 0.5 * lost("gptq", "none")[0]


def test_the_operator_takes_the_scales() -> None:
    _, model = lost("ada-dim", "int8")
    x = f(7, K)
    before = run(model, {"x": x})["y"]
    apply(Lower(), model)
    (node,) = [node for node in model.graph if node.op_type == "LowBitMatMul"]
    assert node.attributes.get_int("n_group_size") == N
    assert [each.op_type for each in model.graph] == ["LowBitMatMul", "Tanh"]
    np.testing.assert_allclose(run(model, {"x": x})["y"], before, atol=2e-4)


def test_the_report_says_where() -> None:
    model = net(OUTLIERS)
    item = Quantize(weights="int4", method="ada-dim", acts="none")
    entry = apply(item, model, [{"x": f(99, K)}])
    assert any(note.startswith("1 of 1 weight lose") for note in entry.notes)
    assert "x input scales" in entry.changes[0].text
    model = net(EVEN)
    entry = apply(item, model, [{"x": f(99, K)}])
    assert any(note.startswith("0 of 1 weight lose") for note in entry.notes)
    assert not any(node.op_type == "Mul" for node in model.graph)


def test_no_branch_beside() -> None:
    with pytest.raises(RecipeError, match="a low-rank branch reads them plain"):
        Quantize(method="ada-dim", rank=8)
