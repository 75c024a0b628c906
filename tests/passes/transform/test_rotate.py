"""Rotations cancel: in residual streams, heads, convolutions, before down-projections."""

import re

import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import apply, assert_same, census, parse, run

from bitfold.models import tiny
from bitfold.passes.core.context import MADE_UP, Context
from bitfold.passes.core.own_coordinates import rotation_of, to_original, to_own
from bitfold.passes.core.pipeline import Pipeline
from bitfold.passes.core.recipe import Recipe
from bitfold.passes.core.report import PassEntry
from bitfold.passes.core.samples import prepare_samples
from bitfold.passes.transform.rotate import Rotate
from bitfold.passes.transform.rotation import Matrix, RandomizedHadamard

RNG = np.random.default_rng(0)


def f(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def weights(model):
    return {
        name: value.const_value.numpy().copy() for name, value in model.graph.initializers.items()
    }


def check(model, feeds, **options):
    before = run_in_original(model, feeds)
    entry = apply(Rotate(**options), model)
    assert_same(before, run_in_original(model, feeds), 1e-4)
    return entry


def run_in_original(model, feeds):
    found = run(model, to_own(model.graph.inputs, feeds))
    return to_original(model.graph.outputs, found)


def decoder_like(tied=False):
    head = "turned = Transpose<perm = [1, 0]>(table)\ny = MatMul(o, turned)"
    return parse(
        f"""g (int64[b, s] ids) => (float[b, s, 20] y) {{
            e = Gather(table, ids)
            p = Add(e, bias)
            n = RMSNormalization<axis = -1>(p, ones)
            a = MatMul(n, up)
            r = Gelu(a)
            d = MatMul(r, down)
            h = Add(p, d)
            o = RMSNormalization<axis = -1>(h, ones)
            {head if tied else "y = MatMul(o, head)"}
        }}""",
        table=f(20, 48),
        bias=f(48),
        ones=np.ones(48, np.float32),
        up=f(48, 64),
        down=f(64, 48),
        **({} if tied else {"head": f(48, 20)}),
    )


IDS = {"ids": np.arange(10).reshape(2, 5)}


@pytest.mark.parametrize("tied", [False, True])
def test_residual_stream(tied):
    model = decoder_like(tied)
    old = weights(model)
    nodes = census(model)
    entry = check(model, IDS)
    new = weights(model)
    changed = {name for name in old if not np.array_equal(old[name], new[name])}
    assert changed == {"table", "bias", "up", "down", *(() if tied else ("head",))}
    assert census(model) == nodes
    assert list(new) == list(old)
    np.testing.assert_allclose(  # rows keep their length
        np.linalg.norm(new["table"], axis=1), np.linalg.norm(old["table"], axis=1), rtol=1e-5
    )
    text = "48 channels: 2 writers, 2 readers"
    assert text in [change.text for change in entry.changes]
    assert any("not linear" in skip.text for skip in entry.skips)


def test_online():
    model = decoder_like()
    entry = check(model, IDS, online=("*",), spaces=())
    assert census(model)["Hadamard"] == 3
    assert "input rotated online, in blocks of 64" in [change.text for change in entry.changes]


def test_no_online_rotation_of_what_has_no_known_rank():
    model = decoder_like()
    (site,) = [node for node in model.graph if node.outputs[0].name == "d"]
    site.inputs[0].shape = None
    entry = check(model, IDS, online=("*",))
    assert "Hadamard" not in census(model)
    assert "the rank of its input is not known" in [skip.text for skip in entry.skips]


def test_no_online_rotation_of_what_is_rotated_already():
    model = decoder_like()
    check(model, IDS, online=("*",))
    assert census(model)["Hadamard"] == 1


def test_a_weight_that_others_read_too_is_not_copied():
    model = parse(
        """g (float[b, 20] x) => (float[b, 20] y, float[b, 48] z) {
            a = MatMul(x, w)
            y = MatMul(a, v)
            z = MatMul(x, w)
        }""",
        w=f(20, 48),
        v=f(48, 20),
    )
    old = weights(model)
    entry = check(model, {"x": f(3, 20)}, copy_limit=10)
    assert "reads w too" in entry.skips[0].text
    assert all(np.array_equal(old[name], new) for name, new in weights(model).items())
    entry = check(model, {"x": f(3, 20)}, copy_limit=10**6)
    assert len(model.graph.initializers) == 3
    assert entry.changes


def test_square_weight_within_one_space():
    model = parse(
        """g (float[b, 20] x) => (float[b, 20] y) {
            a = MatMul(x, w)
            m = MatMul(a, inner)
            s = Add(a, m)
            y = MatMul(s, v)
        }""",
        w=f(20, 48),
        inner=f(48, 48),
        v=f(48, 20),
    )
    entry = check(model, {"x": f(3, 20)})
    assert entry.changes[0].text == "48 channels: 2 writers, 2 readers"


def test_convolutions():
    model = parse(
        """g (float[n, 3, 8, 8] x) => (float[n, 4] y) {
            a = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, v, bias)
            b = Conv<kernel_shape = [3, 3], group = 2, pads = [1, 1, 1, 1]>(a, w)
            p = GlobalAveragePool(b)
            q = Flatten(p)
            y = MatMul(q, u)
        }""",
        v=f(32, 3, 3, 3),
        bias=f(32),
        w=f(64, 16, 3, 3),
        u=f(64, 4),
    )
    entry = check(model, {"x": f(2, 3, 8, 8)})
    texts = [change.text for change in entry.changes]
    assert texts == [
        "16 channels in 2 blocks: 1 writer, 1 reader",
        "32 channels in 2 blocks: 1 writer, 1 reader",
    ]


def bordered(tail, writer="e = Gather(table, ids)", **constants):
    """A residual stream that ``tail`` leaves in coordinates that are not rotated."""
    return parse(
        f"""g (int64[b, s] ids) => (float[b, s, v] y) {{
            {writer}
            n = RMSNormalization<axis = -1>(e, ones)
            a = MatMul(n, up)
            r = Gelu(a)
            d = MatMul(r, down)
            h = Add(e, d)
            m = RMSNormalization<axis = -1>(h, ones)
            b2 = MatMul(m, up2)
            r2 = Gelu(b2)
            d2 = MatMul(r2, down)
            i = Add(h, d2)
            {tail}
        }}""",
        table=f(20, 48),
        ones=np.ones(48, np.float32),
        up=f(48, 64),
        up2=f(48, 64),
        down=f(64, 48),
        **constants,
    )


@pytest.mark.parametrize(
    ("tail", "extra"),
    [
        ("y = RMSNormalization<axis = -1>(i, gain)", 0),
        ("y = Relu(i)", 1),  # signs cannot be folded
        ("y = Identity(i)", 1),
        ("y = LayerNormalization<axis = -1>(i, gain)", 1),
    ],
)
def test_a_border_at_the_end(tail, extra):
    model = bordered(tail, **({"gain": f(48)} if "gain" in tail else {}))
    nodes = census(model)
    entry = check(model, IDS, borders=1)
    assert census(model) - nodes == ({"Hadamard": 1, "Mul": 1} if extra else {"Hadamard": 1})
    assert "48 channels: 3 writers, 2 readers, 1 border" in [each.text for each in entry.changes]
    assert model.graph.outputs[0].name == "y"
    entry = check(bordered(tail, **({"gain": f(48)} if "gain" in tail else {})), IDS, borders=0)
    assert not any("48 channels" in each.text for each in entry.changes)


def test_a_border_at_the_beginning():
    writer = "t = Gather(table, ids)\ne = Gelu(t)"
    model = bordered("y = MatMul(i, head)", writer, head=f(48, 8))
    entry = check(model, IDS)
    assert census(model)["Hadamard"] == 1
    assert "48 channels: 2 writers, 3 readers, 1 border" in [each.text for each in entry.changes]


@pytest.mark.parametrize("output", [False, True])
def test_a_border_that_is_an_output_stays_as_it_is(output):
    """A norm's gain takes the signs only where nobody else reads what it gives."""
    writer = "t = Gather(table, ids)\nu = Gelu(t)\ne = RMSNormalization<axis = -1>(u, gain)"
    model = bordered("y = MatMul(i, head)", writer, head=f(48, 8), gain=f(48))
    if output:
        model.graph.outputs.extend(v for n in model.graph for v in n.outputs if v.name == "e")
    entry = check(model, IDS)
    assert (census(model)["Hadamard"], census(model)["Mul"]) == (1, int(output))
    assert "48 channels: 2 writers, 3 readers, 1 border" in [each.text for each in entry.changes]


TIED_BEHIND_A_GAIN = """o = RMSNormalization<axis = -1>(i, gain)
    turned = Transpose<perm = [1, 0]>(table)
    y = MatMul(o, turned)"""


def test_a_tied_head_behind_a_gain():
    model = bordered(TIED_BEHIND_A_GAIN, gain=f(48))
    nodes, names = census(model), list(model.graph.initializers)
    old = weights(model)
    check(model, IDS, copy_limit=10)
    assert census(model) - nodes == {"Hadamard": 2}
    new = weights(model)
    assert set(new) - set(names) <= {"bitfold.hadamard.12", "bitfold.hadamard.12.inverse"}
    np.testing.assert_array_equal(new["gain"], old["gain"])  # its signs cancel
    assert not np.array_equal(new["table"], old["table"])


def test_borders_that_cost_more_than_they_save():
    model = decoder_like()  # of the hidden layer's one reader, the input would be turned
    entry = check(model, IDS, borders=9)
    assert "Hadamard" not in census(model)
    assert any("not linear" in skip.text for skip in entry.skips)


def cached(caches=True):
    return parse(
        """g (float[b, s, 24] x, float[b, 2, p, 16] pk, float[b, 2, p, 16] pv)
           => (float[b, s, 24] y, float[b, 2, t, 16] nk, float[b, 2, t, 16] nv) {
            q = MatMul(x, wq)
            k = MatMul(x, wk)
            v = MatMul(x, wv)
            qr = Reshape(q, to_q)
            qt = Transpose<perm = [0, 2, 1, 3]>(qr)
            kr = Reshape(k, to_kv)
            kt = Transpose<perm = [0, 2, 1, 3]>(kr)
            vr = Reshape(v, to_kv)
            vt = Transpose<perm = [0, 2, 1, 3]>(vr)
            o, nk, nv = Attention(qt, kt, vt, , pk, pv)
            ot = Transpose<perm = [0, 2, 1, 3]>(o)
            flat = Reshape(ot, to_flat)
            y = MatMul(flat, wo)
        }""",
        wq=f(24, 64),
        wk=f(24, 32),
        wv=f(24, 32),
        wo=f(64, 24),
        to_q=np.array([0, 0, 4, 16]),
        to_kv=np.array([0, 0, 2, 16]),
        to_flat=np.array([0, 0, 64]),
    )


def test_caches_change_coordinates_and_say_so():
    model = cached()
    feeds = {"x": f(1, 3, 24), "pk": f(1, 2, 4, 16), "pv": f(1, 2, 4, 16)}
    check(model, feeds)
    given = {value.name: rotation_of(value) for value in model.graph.inputs}
    assert given["x"] is None
    for matrix in given["pv"]:
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(16), atol=1e-6)
    wrong = run(model, feeds)["y"]
    right = run(model, to_own(model.graph.inputs, feeds))["y"]
    assert np.abs(wrong - right).max() > 0.1
    check(model, feeds)  # a second rotation adds up with the first


def test_caches_left_alone():
    entry = check(
        cached(), {"x": f(1, 3, 24), "pk": f(1, 2, 4, 16), "pv": f(1, 2, 4, 16)}, caches=False
    )
    assert [skip.text for skip in entry.skips] == ["pv holds it from run to run"]


def test_the_pipeline_compares_in_the_original_coordinates():
    feeds = {"x": f(1, 3, 24), "pk": f(1, 2, 4, 16), "pv": f(1, 2, 4, 16)}
    with Context(samples=[feeds]) as context:
        _, report = Pipeline("rotate", context, verify="full").run(cached())
    entry: PassEntry = report.passes[0]
    assert entry.status == "applied"
    assert entry.divergence.sqnr_db > 100


@pytest.mark.parametrize("name", sorted(tiny.TINY))
@pytest.mark.parametrize("online", [(), ("*",)])
def test_tiny_models(name, online):
    feeds = tiny.sample_feeds(name, 0)
    with Context(samples=[feeds]) as context:
        folds = "canonicalize, fold-batch-norm, fold-norm-gain"
        recipe = (*Recipe.of(folds).passes, Rotate(online=online))
        _, report = Pipeline(recipe, context, verify="full").run(tiny.TINY[name](0))
    assert report.passes[-1].status == "applied"


def test_same_seed_same_bytes():
    first, second = decoder_like(), decoder_like()
    for model in (first, second):
        for name, value in model.graph.initializers.items():
            value.const_value = decoder_like_weights[name]
        apply(Rotate(), model)
    a, b = weights(first), weights(second)
    assert all(np.array_equal(a[name], b[name]) for name in a)


decoder_like_weights = {
    name: value.const_value for name, value in decoder_like().graph.initializers.items()
}


@pytest.mark.parametrize("n", [16, 48, 20, 576, 100])
def test_rotations_are_orthogonal(n):
    hadamard = RandomizedHadamard.draw(n, np.random.default_rng(1))
    matrix = hadamard.apply(np.eye(n))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(n), atol=1e-12)
    rows = RNG.standard_normal((3, n))
    np.testing.assert_allclose(hadamard.inverse(hadamard.apply(rows)), rows, atol=1e-12)
    np.testing.assert_allclose(Matrix(matrix).apply(rows), hadamard.apply(rows), atol=1e-12)


def told_kurtosis(model, samples, origin="given", **options):
    """What the report's notes say: form, median before and after, highest likewise, places."""
    entry = PassEntry("rotate", {}, "exact")
    with Context(samples, origin=origin, entry=entry) as context:
        assert Rotate(**options).run(model, context)
    return [re.match(NOTE, note).groups() for note in entry.notes]


NOTE = (
    r"kurtosis within a token of (.*): median (\S+) -> (\S+), at most (\S+) -> (\S+), "
    r"at (\d+) places?$"
)


@pytest.mark.parametrize("tied", [False, True])
def test_the_report_says_how_far_the_kurtosis_falls(tied):
    model = decoder_like(tied)
    table = model.graph.initializers["table"]
    heavy = table.const_value.numpy() * 1.0
    heavy[3, 7] = 400
    table.const_value = ir.tensor(heavy, name="table")
    ((form, median, median_after, highest, highest_after, places),) = told_kurtosis(model, [IDS])
    assert (form, places) == ("48 channels", "2")
    assert float(highest) > 30 > 5 > float(highest_after)
    assert float(median) != float(median_after)


def test_places_are_the_same_where_borders_are_crossed():
    """Behind them a tied head reads another value than before, and is looked at all the same."""
    model = bordered(TIED_BEHIND_A_GAIN, gain=f(48))
    ((*_, places),) = told_kurtosis(model, [IDS], copy_limit=10)
    assert census(model)["Hadamard"] == 2
    assert places == "3"


def test_caches_are_measured_in_the_coordinates_that_they_are_kept_in():
    model = tiny.TINY["decoder"](0)
    with Context() as context:
        model, _ = Pipeline("canonicalize, fold-norm-gain", context, verify="off").run(model)
        samples = prepare_samples(model, context, lambda feeds: run(model, feeds))
    forms = [form for form, *_ in told_kurtosis(model, samples)]
    assert forms == ["64 channels", "2 x 16 channels, 2 spaces"]


def test_nothing_is_measured_without_real_samples():
    assert told_kurtosis(decoder_like(), []) == []
    assert told_kurtosis(decoder_like(), [IDS], MADE_UP) == []
