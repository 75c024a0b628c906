"""Which nodes are sites, and how their weights are seen."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bitfold.passes.analysis.sites import find_sites


def model_with(body: str, **weights: tuple[int, ...]) -> ir.Model:
    """A model x[b, 4] → y of the given nodes, with seeded weights of the given shapes."""
    graph = f"g (float[b, 4] x) => (float[b, n] y) {{ {body} }}"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 23]> {graph}')
    rng = np.random.default_rng(0)
    for name, shape in weights.items():
        array = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(model)


@pytest.mark.parametrize(
    ("body", "kind", "stored"),
    [
        ("y = MatMul(x, w)", "matmul", (4, 6)),
        ("t = Transpose <perm = [1, 0]> (w)  y = MatMul(x, t)", "matmul", (6, 4)),
        ("y = Gemm(x, w)", "gemm", (4, 6)),
        ("y = Gemm <transB = 1> (x, w)", "gemm", (6, 4)),
    ],
)
def test_weights_are_seen_as_out_by_in(body, kind, stored):
    model = model_with(body, w=stored)
    (site,) = find_sites(model)
    array = model.graph.initializers["w"].const_value.numpy()
    assert (site.kind, site.shape) == (kind, (6, 4))
    assert np.array_equal(site.weight(), array if stored == (6, 4) else array.T)
    assert site.data.name == "x"


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("y = MatMul(x, x)", {}),
        ("y = MatMul(x, w)", {"w": (2, 4, 6)}),
        ("y = Gemm <alpha = 2.0> (x, w)", {"w": (4, 6)}),
        ("y = Gemm <transA = 1> (x, w)", {"w": (4, 6)}),
        ("y = Gemm (x, w, c)", {"w": (4, 6), "c": (3, 6)}),
        ("t = Transpose <perm = [0, 1]> (w)  y = MatMul(x, t)", {"w": (4, 6)}),
    ],
)
def test_other_products_are_no_sites(body, weights):
    assert not list(find_sites(model_with(body, **weights)))


def test_globs_match_node_and_weight_names():
    model = model_with("y = MatMul(x, w)", w=(4, 6))
    next(iter(model.graph)).name = "/layers.3/down/MatMul"
    (site,) = find_sites(model)
    assert site.matches(("*/down/*",))
    assert site.matches(("w",))
    assert not site.matches(("*/up/*", "W"))
