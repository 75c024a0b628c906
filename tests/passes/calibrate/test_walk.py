"""The walk over sites: its Gram matrices against NumPy's, and what later sites see."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import parse

from bitfold.passes.analysis.sites import find_sites
from bitfold.passes.calibrate import part as module
from bitfold.passes.calibrate.levels import Levels
from bitfold.passes.calibrate.walk import walk
from bitfold.passes.core.spool import Spool
from bitfold.runtime.errors import CalibrationError
from bitfold.runtime.execution import open_session

RNG = np.random.default_rng(0)


def f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def residual() -> ir.Model:
    """Two branches from one value, a sum that skips a site, and a weight that is read twice."""
    return parse(
        """g (float[b, t, 8] x) => (float[b, t, 8] y) {
            h = Tanh(x)
            p = MatMul(h, w1)
            q = MatMul(h, w2)
            m = Mul(p, q)
            r = MatMul(m, w3)
            s = Add(r, x)
            u = MatMul(s, w3t)
            y = Add(u, h)
        }""",
        w1=f(8, 12),
        w2=f(8, 12),
        w3=f(12, 8),
        w3t=f(8, 8),
    )


def rows_of(model: ir.Model, name: str, samples: list[dict[str, np.ndarray]]) -> list[np.ndarray]:
    session = open_session(model, outputs=[name], optimize=False)
    return [session.run(feeds)[name] for feeds in samples]


def gram_of(rows: list[np.ndarray]) -> np.ndarray:
    flat = [each.reshape(-1, each.shape[-1]).astype(np.float64) for each in rows]
    return np.mean([each.T @ each / len(each) for each in flat], axis=0)


def test_gram_matrices_and_order() -> None:
    model = residual()
    samples = [{"x": f(2, 3, 8)}, {"x": f(1, 7, 8)}]
    steps = list(walk(model, list(find_sites(model)), samples))
    read = [[str(site.data.name) for site in step.sites] for step in steps]
    assert read == [["h", "h"], ["m"], ["s"]]
    for step in steps:
        for site in step.sites:
            expected = gram_of(rows_of(model, str(site.data.name), samples))
            np.testing.assert_allclose(step.gram(site), expected, rtol=1e-5, atol=1e-6)


def test_later_sites_see_what_was_changed() -> None:
    model, samples = residual(), [{"x": f(2, 3, 8)}]
    seen = []
    for step in walk(model, list(find_sites(model)), samples):
        seen.append(step.gram(step.sites[0]))
        for site in step.sites:
            weight = site.source.const_value.numpy() * np.float32(0.5)
            site.source.const_value = ir.tensor(weight, name=site.source.name)
    np.testing.assert_allclose(seen[2], gram_of(rows_of(model, "s", samples)), rtol=1e-5)


def test_each_part_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def watched(part: ir.Model, **options: object) -> object:
        ran.extend(str(node.name) for node in part.graph)
        return open_session(part, **options)

    model = residual()
    for index, node in enumerate(model.graph):
        node.name = f"own {index}"
    monkeypatch.setattr(module, "open_session", watched)
    list(walk(model, list(find_sites(model)), [{"x": f(1, 2, 8)}]))
    own = sorted(name for name in ran if name.startswith("own"))
    assert own == [f"own {index}" for index in range(6)]  # what lies behind the last site never


def test_what_waits_lies_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the numbers are the same."""
    model, samples = residual(), [{"x": f(2, 3, 8)}, {"x": f(1, 7, 8)}]
    expected = [step.grams for step in walk(model, list(find_sites(model)), samples)]
    kept: list[np.ndarray] = []

    def watched(self: Spool, array: np.ndarray, name: str) -> np.ndarray:
        kept.append(hold(self, array, name))
        return kept[-1]

    hold = Spool.hold
    monkeypatch.setattr(Spool, "hold", watched)
    monkeypatch.setattr("bitfold.passes.core.spool.SPOOL_THRESHOLD", 1)
    for step, grams in zip(walk(model, list(find_sites(model)), samples), expected, strict=True):
        for name, gram in step.grams.items():
            np.testing.assert_array_equal(gram.mean, grams[name].mean)
    assert kept
    assert all(isinstance(array, np.memmap) for array in kept)


def test_what_weights_alone_give_is_not_kept() -> None:
    """Both sites read the same product of weights: it would wait as often as there are samples."""
    model = parse(
        """g (float[n, 8] x) => (float[n, 8] y) {
            turned = Transpose(w1)
            scaled = Mul(turned, c)
            a = MatMul(x, w2)
            b = MatMul(a, scaled)
            d = MatMul(b, w2)
            e = MatMul(d, scaled)
            y = Add(e, d)
        }""",
        w1=f(8, 8),
        w2=f(8, 8),
        c=f(8),
    )
    chosen = [site for site in find_sites(model) if str(site.source.name) == "w2"]
    levels = Levels(model.graph, [site.node for site in chosen])
    assert [levels.born(cut) for cut in range(levels.count)] == [[], ["b"]]
    samples = [{"x": f(3, 8)}]
    _, second = walk(model, chosen, samples)
    np.testing.assert_allclose(
        second.gram(second.sites[0]), gram_of(rows_of(model, "b", samples)), rtol=1e-5
    )


CONV = "strides = [2, 1], pads = [1, 0, 2, 1], dilations = [1, 2]"


@pytest.mark.parametrize(
    ("kernel", "attributes"), [((3, 2), CONV), ((1, 1), ""), ((1, 1), "strides = [2, 2]")]
)
def test_patches_of_a_convolution(kernel: tuple[int, ...], attributes: str) -> None:
    """The squared outputs of any kernel are what the Gram matrix says: columns (tap, channel)."""
    weight = f(6, 5, *kernel)
    conv = f"y = Conv <{attributes}> (x, w)" if attributes else "y = Conv(x, w)"
    model = parse(f"g (float[n, 5, h, v] x) => (float[n, 6, a, b] y) {{ {conv} }}", w=weight)
    samples = [{"x": f(2, 5, 9, 8)}]
    (site,) = find_sites(model)
    (step,) = walk(model, [site], samples)
    (y,) = rows_of(model, "y", samples)
    columns = site.weight().astype(np.float64)
    expected = np.square(y.astype(np.float64)).mean(axis=(0, 2, 3))
    found = np.einsum("nk,kj,nj->n", columns, step.gram(site), columns)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_values_of_subgraphs_are_kept() -> None:
    """A branch reads, past a site, what came before it."""
    model = parse(
        """g (float[b, 8] x, bool c) => (float[b, 8] y) {
            h = Tanh(x)
            p = MatMul(h, w1)
            r = If (c) <
                then_branch = t () => (float[b, 8] a) { a = Mul(p, h) },
                else_branch = e () => (float[b, 8] d) { d = Identity(p) }
            >
            y = MatMul(r, w2)
        }""",
        w1=f(8, 8),
        w2=f(8, 8),
    )
    samples = [{"x": f(4, 8), "c": np.array(True)}]
    steps = list(walk(model, list(find_sites(model)), samples))
    expected = gram_of(rows_of(model, "r", samples))
    np.testing.assert_allclose(steps[1].gram(steps[1].sites[0]), expected, rtol=1e-5)


def test_values_whose_types_are_not_told() -> None:
    model, samples = residual(), [{"x": f(2, 3, 8)}]
    for node in model.graph:
        for value in node.outputs:
            if value.name in ("m", "r", "s"):
                value.type = value.shape = None
    *_, last = walk(model, list(find_sites(model)), samples)
    np.testing.assert_allclose(
        last.grams["s"].mean, gram_of(rows_of(model, "s", samples)), rtol=1e-5
    )


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_values_of_half_the_width(kind: str) -> None:
    """They are alive at a cut, and go on as they were."""
    model = parse(
        f"""g (float[b, 8] x) => (float[b, 8] y) {{
            h = Cast <to = {10 if kind == "float16" else 16}> (x)
            p = MatMul(x, w1)
            w = Cast <to = 1> (h)
            s = Add(p, w)
            y = MatMul(s, w2)
        }}""",
        w1=f(8, 8),
        w2=f(8, 8),
    )
    samples = [{"x": f(4, 8)}]
    *_, last = walk(model, list(find_sites(model)), samples)
    np.testing.assert_allclose(
        last.grams["s"].mean, gram_of(rows_of(model, "s", samples)), rtol=1e-5
    )


def test_inputs_that_are_not_finite() -> None:
    model = residual()
    with pytest.raises(CalibrationError, match="reads 'h', which is not finite"):
        list(walk(model, list(find_sites(model)), [{"x": np.full((1, 2, 8), np.nan, np.float32)}]))
