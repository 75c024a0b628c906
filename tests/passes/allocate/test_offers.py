"""What a weight is said to take on a target is what lowering stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import apply, parse

import bitfold
from bitfold.frontend.sources import TRAINED, find_model
from bitfold.passes.allocate.offers import OFFERS, stored_nbytes
from bitfold.passes.analysis.sites import find_sites
from bitfold.passes.core.targets import Target
from bitfold.passes.lower.lower import Lower
from bitfold.passes.quantize.quantize import Quantize

RNG = np.random.default_rng(0)
GRAPHS = {
    "matmul": "g (float[n, 96] x) => (float[n, 40] y) { y = Gemm<transB=1>(x, w) }",
    "table": "g (int64[n] i) => (float[n, 96] y) { y = Gather(w, i) }",
    "tied": "g (int64[n] i) => (float[n, 40] y) { x = Gather(w, i) y = Gemm<transB=1>(x, w) }",
}
WEIGHT = RNG.standard_normal((40, 96)).astype(np.float32)
KERNELS = RNG.standard_normal((24, 32, 3, 3)).astype(np.float32)
CONV = "g (float[1, 32, 8, 8] x) => (float[1, 24, 6, 6] y) { y = Conv(x, w) }"


def held(model: ir.Model) -> int:
    """Bytes of the initializers that are read."""
    initializers = model.graph.initializers.values()
    return sum(each.const_value.nbytes for each in initializers if each.const_value and each.uses())


@pytest.mark.parametrize("target", ["ort", "portable"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("number", "group"), [("int4", 64), ("int2", 32)])
@pytest.mark.parametrize("graph", [*GRAPHS, "conv"])
def test_what_is_stored(
    graph: str, number: str, group: int, symmetric: bool, target: Target
) -> None:
    model = parse(CONV, w=KERNELS) if graph == "conv" else parse(GRAPHS[graph], w=WEIGHT)
    sites = list(find_sites(model))
    quantize = Quantize(weights=number, group=group, symmetric=symmetric, target=target)
    scheme = quantize.scheme_of(sites).weight
    before = held(model) - model.graph.initializers["w"].const_value.nbytes  # type: ignore[union-attr]
    apply(quantize, model)
    apply(Lower(target=target), model)
    expected = stored_nbytes(sites, scheme, target)
    # Beside it lie small constants: shapes, bounds of int8.
    assert expected <= held(model) - before <= expected + 200


@pytest.mark.parametrize("target", OFFERS)
def test_a_size_on_each_target(target: Target, tmp_path: Path) -> None:
    """The file has the size that was asked for, or a little less; no weight is stored wider."""
    size = 1.6
    bitfold.convert(find_model(TRAINED), tmp_path / "model.onnx", size=size, target=target)
    written = sum(each.stat().st_size for each in tmp_path.iterdir()) / 1e6
    assert 0.95 * size < written < 1.02 * size
