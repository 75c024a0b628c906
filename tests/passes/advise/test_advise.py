"""The advisor rotates where it helps at the scheme, leaves the rest, and says why."""

import re

import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import assert_same, census, parse, run

from bitfold.models import tiny
from bitfold.passes.advise.advise import Advise
from bitfold.passes.advise.layer_errors import output_error, site_errors, table_error
from bitfold.passes.advise.trials import Candidate, Trials, disjoint
from bitfold.passes.analysis.sites import find_sites
from bitfold.passes.core.context import Context
from bitfold.passes.core.pipeline import Pipeline
from bitfold.passes.core.report import PassEntry
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.errors import RecipeError
from bitfold.runtime.formats.scheme import QuantScheme, WeightScheme

RNG = np.random.default_rng(0)


def f(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def advise(model, feeds, **options):
    entry = PassEntry("advise", {}, "exact")
    with Context(samples=[feeds], entry=entry) as context:
        Advise(**options).run(model, context)
    return entry


def block(outlier):
    """A stream with one channel ``outlier`` times as large as the others, and a gated layer."""
    rng = np.random.default_rng(1)

    def f(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    spread = np.ones(64, np.float32)
    spread[7] = outlier
    return parse(
        """g (float[b, s, 24] x) => (float[b, s, 24] y) {
            e = MatMul(x, table)
            n = RMSNormalization<axis = -1>(e, ones)
            g0 = MatMul(n, gate)
            t = Sigmoid(g0)
            z = Mul(g0, t)
            u = MatMul(n, up)
            p = Mul(z, u)
            d = MatMul(p, down)
            h = Add(e, d)
            o = RMSNormalization<axis = -1>(h, ones)
            y = MatMul(o, head)
        }""",
        table=f(24, 64) * spread,
        ones=np.ones(64, np.float32),
        gate=f(64, 96) / 8,
        up=f(64, 96) / 8,
        down=f(96, 64) / 50,
        head=f(64, 24) / 8,
    )


FEEDS = {"x": f(2, 40, 24)}


def test_rotates_what_has_outliers():
    model = block(200)
    before = run(model, FEEDS)
    entry = advise(model, FEEDS, weights="int8", acts="int4", act_granularity="token", online=False)
    assert_same(before, run(model, FEEDS), 1e-4)
    assert any(change.text.startswith("rotated: layer errors") for change in entry.changes)
    assert any("the whole model" in note for note in entry.notes)
    (plan,) = [note for note in entry.notes if note.startswith("by hand: ")]
    assert "rotate{spaces=" in plan
    assert any(note.startswith("kurtosis within a token of 64 channels") for note in entry.notes)


def test_leaves_what_has_none():
    model = block(1)
    entry = advise(model, FEEDS, weights="int8", acts="none", online=False)
    assert not any("rotated: layer errors" in change.text for change in entry.changes)
    (stream,) = [skip for skip in entry.skips if skip.text == "would not gain by being rotated"]
    assert "layer errors" in stream.detail


def test_smooths_where_that_pays():
    model = block(1)
    gain = np.ones(64, np.float32)
    gain[3] = 60  # an outlier that a norm's gain makes: no rotation keeps the gain
    ones = model.graph.initializers["ones"]
    ones.const_value = ir.tensor(gain, name="ones")
    before = run(model, FEEDS)
    entry = advise(model, FEEDS, weights="int8", acts="int8", act_granularity="token", online=False)
    assert_same(before, run(model, FEEDS), 1e-4)
    assert any(change.text.startswith("smoothed: layer errors") for change in entry.changes)
    assert gain[3] == 60  # arrays are never written to


def test_online_where_nothing_is_free():
    model = block(1)
    model.graph.initializers["up"].const_value.numpy()[:, 5] *= 100  # an outlier behind the gate
    entry = advise(model, FEEDS, weights="int8", acts="int4", act_granularity="token")
    assert "rotated online" in " ".join(change.text for change in entry.changes)
    assert census(model)["Hadamard"] >= 1


def hidden(channels, heavy):
    """A GELU between two layers, where nothing can be rotated or scaled; a few heavy channels."""
    rng = np.random.default_rng(1)
    spread = np.ones(channels, np.float32)
    spread[[5, 40]] = heavy
    return parse(
        """g (float[b, s, 24] x) => (float[b, s, 40] y) {
            a = MatMul(x, up)
            h = Gelu(a)
            y = MatMul(h, down)
        }""",
        up=rng.standard_normal((24, channels), np.float32),
        down=rng.standard_normal((channels, 40), np.float32) * spread[:, None],
    )


PER_CHANNEL = {"weights": "int4", "group": 0, "acts": "none", "online": False}


def test_splits_where_that_pays():
    model = hidden(256, heavy=12)
    before = run(model, FEEDS)
    entry = advise(model, FEEDS, **PER_CHANNEL, budget=0.1)
    assert_same(before, run(model, FEEDS), 1e-4)
    (change,) = entry.changes
    assert change.text.startswith("split: layer errors")
    assert "256 -> 272 channels, weight side" in change.text
    assert model.graph.initializers["down"].shape[0] == 272
    (whole,) = [note for note in entry.notes if note.startswith("the whole model")]
    first, last = (float(b) for b in re.findall(r"at (\S+) bits a weight", whole))
    assert 272 / 256 <= last / first < 1.1  # what is added is counted, padding included


def test_splits_nothing_where_inputs_lose_most():
    """Narrower weights are of no use where the inputs' rounding is what costs."""
    model = hidden(256, heavy=12)
    coarse = {"weights": "int8", "group": 0, "acts": "int2", "act_granularity": "token"}
    entry = advise(model, FEEDS, **coarse, online=False, budget=0.1)
    assert not entry.changes
    (skip,) = entry.skips
    assert skip.text == "would not gain by being split"
    assert re.match(r"layer errors 0.\d+ -> 0.\d+, 1 site; its readers would gain", skip.detail)
    assert model.graph.initializers["down"].shape[0] == 256


@pytest.mark.parametrize("budget", [0.05, 0])
def test_splits_nothing_beyond_the_budget(budget):
    entry = advise(hidden(256, heavy=12), FEEDS, **PER_CHANNEL, budget=budget)
    assert not entry.changes
    told = [skip.detail for skip in entry.skips]
    assert all("beyond the budget: 256 -> 272 channels" in detail for detail in told)
    assert len(told) == (1 if budget else 0)


def test_a_split_that_costs_more_bits_than_it_gains_is_left():
    """A quarter more channels gain less here than the bits that they take would."""
    model = hidden(64, heavy=2)
    entry = advise(model, FEEDS, **PER_CHANNEL, budget=0.5)
    assert not entry.changes
    (skip,) = entry.skips
    assert skip.text == "would gain by being split, but the whole model loses least as it is"
    assert "64 -> 80 channels" in skip.detail
    (whole,) = [note for note in entry.notes if note.startswith("the whole model")]
    assert "as it is, then split" in whole
    assert model.graph.initializers["down"].shape[0] == 64


def test_the_plan_by_hand_gives_the_same_bytes():
    original = block(200)
    recipe = "advise{weights=int8 acts=int4 act_granularity=token}"
    with Context(samples=[FEEDS]) as context:
        model, report = Pipeline(recipe, context, verify="off").run(original)
    notes = report.passes[0].notes
    (text,) = [note.removeprefix("by hand: ") for note in notes if "by hand" in note]
    with Context() as context:
        other, _ = Pipeline(text, context, verify="off").run(original)
    assert list(model.graph.initializers) == list(other.graph.initializers)
    for name, value in model.graph.initializers.items():
        found = other.graph.initializers[name].const_value.numpy()
        np.testing.assert_array_equal(value.const_value.numpy(), found)


def test_without_samples_nothing_is_tried():
    entry = PassEntry("advise", {}, "exact")
    with Context(entry=entry) as context:
        assert not Advise().run(block(200), context)
    assert entry.notes == ["no sample inputs: nothing is tried"]


def test_long_work_tells_how_far_it_is():
    told = []
    with Context(samples=[FEEDS], progress=lambda *each: told.append(each)) as context:
        Advise(online=False).run(block(200), context)
    fractions = [fraction for text, fraction in told if ":" not in text]  # the beginnings of steps
    assert fractions == sorted(set(fractions))
    assert fractions[0] == 0
    assert max(fraction for _, fraction in told) <= 1
    assert {"trying what can be rotated", "trying what can be split"} <= {text for text, _ in told}


def test_what_plans_have_in_common_is_tried_once(monkeypatch):
    """Nothing is worth rotating here, so both plans go on from the model as it is."""
    tried = []
    attempt = Trials.attempt

    def counted(self, candidates, change):
        tried.append([each.name for each in candidates])
        return attempt(self, candidates, change)

    monkeypatch.setattr(Trials, "attempt", counted)
    advise(block(1), FEEDS, weights="int8", acts="none", budget=0)
    assert len(tried) == 4  # folded and rotated, rotated, online, smoothed


def test_options_are_those_of_quantize():
    with pytest.raises(RecipeError):
        Advise(weights="int99")
    assert Advise(group=64).quantizer() == Quantize(group=64)


@pytest.mark.parametrize("name", sorted(tiny.TINY))
def test_tiny_models(name):
    with Context(samples=[tiny.sample_feeds(name, 0)]) as context:
        recipe = "canonicalize, fold-batch-norm, advise{weights=int8 acts=int4}"
        _, report = Pipeline(recipe, context, verify="full").run(tiny.TINY[name](0))
    assert report.passes[-1].status in ("applied", "unchanged")


def test_output_error():
    model = parse("g (float[b, 64] x) => (float[b, 20] y) { y = MatMul(x, w) }", w=f(64, 20))
    (site,) = find_sites(model)
    x = f(50, 64)
    fine = QuantScheme(WeightScheme("int8", 32), "int8")
    coarse = QuantScheme(WeightScheme("int8", 32), "int4")
    assert 0 < output_error(site, x, fine) < 1e-3 < output_error(site, x, coarse) < 0.1
    assert output_error(site, np.zeros_like(x), fine) == 0
    assert 0 < table_error(site.weight(), fine) < 1e-3
    found = site_errors(model, [site], lambda _: coarse, [{"x": x}], rows=50)
    assert found[site.name] == pytest.approx(output_error(site, x, coarse), rel=1e-3)


def test_candidates_that_share_a_site_are_tried_apart():
    a, b, c = (Candidate(name, (name,), frozenset(name)) for name in ("xy", "yz", "w"))
    groups = disjoint([a, b, c])
    assert sorted(len(group) for group in groups) == [1, 2]
    assert not any(a in group and b in group for group in groups)
