"""``allocate``: weights that matter get more bits, and the budget holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import apply, parse, run

from bitfold.models.tiny import TINY, sample_feeds
from bitfold.passes.allocate.allocate import Allocate
from bitfold.passes.allocate.probes import moved_alone, moved_by
from bitfold.passes.allocate.stored import BODY
from bitfold.passes.allocate.tail import array_of
from bitfold.passes.canonicalize.canonicalize import Canonicalize
from bitfold.passes.core.compare import compare_outputs
from bitfold.passes.core.context import Context, Feeds
from bitfold.passes.core.stage import snapshot
from bitfold.passes.core.store import Store
from bitfold.passes.quantize.plan import KEY, plan, planned
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.errors import CalibrationError, RecipeError
from bitfold.runtime.formats.scheme import WeightScheme

RNG = np.random.default_rng(0)
WEIGHTS = {name: RNG.standard_normal((256, 256)).astype(np.float32) for name in ("loud", "quiet")}
X = {"x": RNG.standard_normal((32, 256)).astype(np.float32)}
ITEM = Allocate(formats=("int2", "int4", "int8"), groups=(32,))


def unequal() -> ir.Model:
    """Two weights, of which one does a thousandth of what the other does."""
    body = "a = MatMul(x, loud) b = MatMul(x, quiet) c = Mul(b, small) y = Add(a, c)"
    small = np.array([1e-3], np.float32)
    return parse(f"g (float[n, 256] x) => (float[n, 256] y) {{ {body} }}", **WEIGHTS, small=small)


def formats(model: ir.Model) -> dict[str, str]:
    found = {name: planned(value) for name, value in model.graph.initializers.items()}
    return {name: scheme.format for name, scheme in found.items() if scheme is not None}


def test_more_bits_for_what_matters() -> None:
    model = unequal()
    entry = apply(ITEM, model, [X])
    # 8.25 and 2.25 bits would be over the mean of 4; so would 4.25 twice.
    assert formats(model) == {"loud": "int4", "quiet": "int2"}
    assert "3.25 bits a weight" in entry.notes[0]
    apply(replace(ITEM, bits=5.25), model, [X])
    assert formats(model) == {"loud": "int8", "quiet": "int2"}


def test_quantize_does_as_noted() -> None:
    model = unequal()
    apply(replace(ITEM, bits=5.25), model, [X])
    entry = apply(Quantize(), model, [X])
    told = {site.site: site.scheme for site in entry.sites}
    assert sorted(text.split()[0] for text in told.values()) == ["int2", "int8"]
    assert sum(site.bytes_after for site in entry.sites) == 256 * 256 * (8 + 2 + 2 * 0.25) / 8
    assert KEY not in "".join(str(v.metadata_props) for v in model.graph.initializers.values())


@pytest.mark.parametrize(("alone", "fewest"), [(1.0, "int4"), (0.1, "int2")])
def test_what_all_weights_lose_together_decides(
    alone: float, fewest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small losses add up; those of 2 bits may do so to more than their sum."""

    def together(item: Any, model: ir.Model, samples: Sequence[Feeds]) -> float:
        return alone if "int2" in formats(model).values() else 0.5

    monkeypatch.setattr("bitfold.passes.allocate.together.moved_by", together)
    model = unequal()
    entry = apply(replace(ITEM, bits=5.25, acts="none"), model, [X])
    assert formats(model)["quiet"] == fewest
    assert entry.notes[0].endswith(f"move the outputs by {alone:.2g}, 0.5")


def test_a_size_of_the_file() -> None:
    model = unequal()
    apply(replace(ITEM, size=0.0870 + 2 * BODY / 1e6), model, [X])
    assert formats(model) == {"loud": "int8", "quiet": "int2"}
    with pytest.raises(RecipeError, match="bytes at least"):
        apply(replace(ITEM, size=0.036), model, [X])


def test_probes_round_one_weight_alone() -> None:
    model = unequal()
    weights = [model.graph.initializers[name] for name in ("loud", "quiet")]
    rounded = {name: np.round(weight) for name, weight in WEIGHTS.items()}
    probes = [(value, lambda value=value: rounded[str(value.name)]) for value in weights]
    for value, distance in zip(weights, moved_alone(model, probes, [X]), strict=True):
        other = unequal()
        name = str(value.name)
        other.graph.initializers[name].const_value = ir.tensor(rounded[name], name=name)
        expected = compare_outputs([(run(model, X), run(other, X))]).distance
        assert distance == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("name", ["decoder", "cnn"])
def test_probes_run_what_a_weight_can_change(
    name: str, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole models, tied tables and convolutions among their weights: as if all of it were run."""
    model, feeds = TINY[name](1), [sample_feeds(name, seed) for seed in (0, 1)]
    apply(Canonicalize(), model)
    jobs = ITEM._jobs(model, Context(feeds))
    rounded = [np.round(8 * array_of(job.source)) / 8 for job in jobs]
    weights = [
        (job.source, lambda array=array: array) for job, array in zip(jobs, rounded, strict=True)
    ]
    expected = [run(model, each) for each in feeds]
    monkeypatch.setattr("bitfold.passes.allocate.probes.TOGETHER", together)
    measured = list(moved_alone(model, weights, feeds))
    assert len(measured) > together
    for job, array, distance in zip(jobs, rounded, measured, strict=True):
        other = snapshot(model)
        other.graph.initializers[str(job.source.name)].const_value = ir.tensor(array)
        pairs = [(before, run(other, each)) for before, each in zip(expected, feeds, strict=True)]
        assert distance == pytest.approx(compare_outputs(pairs).distance, rel=1e-3, abs=1e-9)
    assert max(measured) > 1e-6


@pytest.mark.parametrize("name", ["decoder", "cnn"])
def test_closer_than_one_format_for_all(name: str) -> None:
    """On whole models, tied tables and convolutions among their weights."""
    feeds = [sample_feeds(name, 0)]

    def quantized(*items: Allocate | Quantize) -> tuple[float, int]:
        model = TINY[name](1)
        apply(Canonicalize(), model)
        expected = run(model, feeds[0])
        for item in items:
            entry = apply(item, model, feeds)
        distance = compare_outputs([(expected, run(model, feeds[0]))]).distance
        return distance, sum(site.bytes_after for site in entry.sites)

    same = Quantize(weights="int6", symmetric=True, scales="e4m3", acts="none")
    uniform, nbytes = quantized(same)
    free = Allocate(bits=1, formats=("int4", "int5", "int6", "int7", "int8"), acts="none")
    model = TINY[name](1)
    apply(Canonicalize(), model)
    weights = sum(np.prod(site.rows * site.columns) for site in apply(same, model, feeds).sites)
    chosen, allowed = quantized(replace(free, bits=8 * nbytes / weights), same)
    assert allowed <= nbytes
    assert chosen < uniform


def test_no_inputs() -> None:
    with pytest.raises(CalibrationError, match="none"):
        apply(ITEM, unequal())


def test_formats_that_inputs_do_not_suit_are_refused_at_once() -> None:
    with pytest.raises(Exception, match="fp8_e4m3"):
        replace(ITEM, formats=("fp8_e4m3",))
    assert replace(ITEM, formats=("fp8_e4m3",), acts="none")


@pytest.mark.parametrize("missing", [{"groups": ()}, {"samples": 0}])
def test_nothing_to_choose_from_or_by(missing: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="expected groups and samples"):
        replace(ITEM, **missing)


def test_notes_come_back() -> None:
    value = unequal().graph.initializers["loud"]
    for scheme in (WeightScheme("int4", 64, False, "f32"), WeightScheme("nf4", 0, True, "e4m3")):
        plan(value, scheme)
        assert planned(value) == scheme
    value.metadata_props[KEY] = "int4 some symmetric f16"
    with pytest.raises(RecipeError, match="int4 some symmetric f16"):
        planned(value)


def test_rounded_inputs_want_small_groups() -> None:
    """Signs lose nothing in 8 bits; inputs with outliers far apart lose less in short groups."""
    signs = {name: np.sign(weight) for name, weight in WEIGHTS.items()}
    rows = X["x"].copy()
    rows[:, ::128] *= 100
    body = "a = MatMul(x, loud) y = MatMul(a, quiet)"
    model = parse(f"g (float[n, 256] x) => (float[n, 256] y) {{ {body} }}", **signs)
    losses = {}
    for group in (32, 128):
        item = Quantize(weights="int8", group=group, lossless="off")
        losses[group] = moved_by(item, model, [{"x": rows}])
    assert losses[32] < 0.7 * losses[128]
    entry = apply(Allocate(formats=("int8",), groups=(32, 128), bits=8.25), model, [{"x": rows}])
    assert "8.25 bits" in entry.notes[0]
    assert all(note.text.startswith("int8 g32 ") for note in entry.changes)


def test_probes_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another budget begins with what the last one found; a probe that is missing is made."""
    probed: list[str] = []

    def counted(
        model: ir.Model, weights: Iterable[Any], samples: Sequence[Feeds]
    ) -> Iterator[float]:
        weights = list(weights)
        probed.extend(str(source.name) for source, _ in weights)
        return moved_alone(model, weights, samples)

    def run_with(item: Allocate, store: Store | None, feeds: Feeds = X) -> dict[str, str]:
        model = unequal()
        with Context([feeds], cache=store) as context:
            item.run(model, context)
        return formats(model)

    monkeypatch.setattr("bitfold.passes.allocate.allocate.moved_alone", counted)
    plain = {bits: run_with(replace(ITEM, bits=bits), None) for bits in (4, 5.25)}
    assert probed == ["loud", "quiet"] * 2
    probed.clear()
    store = Store(tmp_path)
    assert run_with(ITEM, store) == plain[4]
    assert probed == ["loud", "quiet"]
    assert run_with(replace(ITEM, bits=5.25), store) == plain[5.25]
    assert probed == ["loud", "quiet"]
    max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns).unlink()
    assert run_with(ITEM, store) == plain[4]
    assert probed == ["loud", "quiet", "quiet"]
    probed.clear()
    run_with(ITEM, store, {"x": X["x"] * 2})
    assert probed == ["loud", "quiet"]
