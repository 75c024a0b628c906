"""A conversion that was stopped goes on where it stopped, and gives what it would have given."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import parse

from bitfold.frontend.convert import convert
from bitfold.models.tiny import TINY, sample_feeds
from bitfold.passes.core.context import Context
from bitfold.passes.core.fingerprint import model_digest
from bitfold.passes.core.store import Store
from bitfold.passes.quantize.plan import plan
from bitfold.passes.quantize.quantize import Quantize
from bitfold.passes.quantize.rounder import Rounder
from bitfold.runtime.formats.scheme import WeightScheme

GPTQ = Quantize(weights="int3", method="gptq", acts="none")
CASES = {
    "sequential": GPTQ,
    "parallel": replace(GPTQ, sequential=False, symmetric=True, scales="e4m3"),
    "learned and beside": replace(GPTQ, weights="learned3", rank=2),
    "weighted": replace(GPTQ, tokens="attention"),
    "sums": replace(GPTQ, weights="binary", method="pb", acts="int8"),
}


class Stopped(Exception):
    """What stops a conversion."""


class Counter:
    """Counts the weights that are quantized, and stops before one too many."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.most = 0, 10**9
        outcome = Rounder.__call__

        def counted(item: Rounder, *arguments: Any, **named: Any) -> Any:
            if self.count == self.most:
                raise Stopped
            self.count += 1
            return outcome(item, *arguments, **named)

        monkeypatch.setattr(Rounder, "__call__", counted)

    def spent(self) -> int:
        """How many since the last time."""
        count, self.count = self.count, 0
        return count


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    return Counter(monkeypatch)


def model(seed: int = 0) -> ir.Model:
    """An embedding tied to the head, and between them attention, a convolution and a product."""
    rng = np.random.default_rng(seed)
    shapes = {"t": (90, 32), "a": (32, 48), "b": (32, 48), "k": (48, 48, 3), "c": (48, 32)}
    weights = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    return parse(
        """g (int64[n, s] i) => (float[n, s, 90] y) {
            x = Gather(t, i)
            p = MatMul(x, a)
            q = MatMul(x, b)
            m = Attention <q_num_heads = 4, kv_num_heads = 4, is_causal = 1> (p, q, p)
            turned = Transpose <perm = [0, 2, 1]> (m)
            r = Conv <pads = [1, 1]> (turned, k)
            back = Transpose <perm = [0, 2, 1]> (r)
            h = MatMul(back, c)
            head = Transpose <perm = [1, 0]> (t)
            y = MatMul(h, head)
        }""",
        **weights,
    )


def made(
    item: Quantize, cache: Path | None, seed: int = 0, sample: int = 1
) -> tuple[str, list[str]]:
    """The digest of a quantized model, and the report's notes."""
    ids = np.random.default_rng(sample).integers(0, 90, (3, 2, 20))
    found, store = model(seed), None if cache is None else Store(cache)
    with Context(calibration=[{"i": each} for each in ids], cache=store) as context:
        item.run(found, context)
        return model_digest(found), context.entry.notes


@pytest.mark.parametrize("item", CASES.values(), ids=CASES)
def test_goes_on_where_it_stopped(tmp_path: Path, counter: Counter, item: Quantize) -> None:
    expected, _ = made(item, None)
    total = counter.spent()
    assert total == 5
    for done, more in itertools.pairwise(range(total + 1)):
        counter.most = more - done
        if more < total:
            with pytest.raises(Stopped):
                made(item, tmp_path)
        else:
            found, notes = made(item, tmp_path)
            assert found == expected
            assert f"{done} of {total} weights had been done before" in "\n".join(notes)
        assert counter.spent() == 1
    assert made(item, tmp_path)[0] == expected
    assert counter.spent() == 0


CHANGES: dict[str, Callable[[Path], object]] = {
    "inputs": lambda cache: made(GPTQ, cache, sample=2),
    "model": lambda cache: made(GPTQ, cache, seed=1),
    "options": lambda cache: made(replace(GPTQ, group=16), cache),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_not_the_same_begins_anew(
    tmp_path: Path, counter: Counter, change: Callable[[Path], object]
) -> None:
    made(GPTQ, tmp_path)
    assert counter.spent() == 5
    change(tmp_path)
    assert counter.spent() == 5


def test_schemes_noted_on_weights_begin_anew(tmp_path: Path, counter: Counter) -> None:
    """As ``allocate`` leaves them: for another size it notes others on the same weights."""

    def noted(format: str, cache: Path | None) -> str:
        found, store = model(), None if cache is None else Store(cache)
        for value in found.graph.initializers.values():
            plan(value, WeightScheme(format, 16))
        ids = {"i": np.random.default_rng(1).integers(0, 90, (2, 20))}
        with Context(calibration=[ids], cache=store) as context:
            GPTQ.run(found, context)
            return model_digest(found)

    assert noted("int2", tmp_path) == noted("int2", None)
    counter.spent()
    assert noted("int5", tmp_path) == noted("int5", None)
    assert counter.spent() == 10


def test_newer_software_begins_anew(
    tmp_path: Path, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(GPTQ, tmp_path)
    monkeypatch.setattr("bitfold.passes.quantize.quantize.software_digest", lambda: "newer")
    made(GPTQ, tmp_path)
    assert counter.spent() == 10


def test_a_damaged_file_is_done_again_with_all_behind_it(tmp_path: Path, counter: Counter) -> None:
    expected, _ = made(GPTQ, tmp_path)
    assert counter.spent() == 5
    files = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    files[2].write_bytes(files[2].read_bytes()[:-1])
    found, notes = made(GPTQ, tmp_path)
    assert found == expected
    assert counter.spent() == 3
    assert "damaged" in notes[0]


def test_what_costs_little_is_not_kept(tmp_path: Path) -> None:
    made(replace(GPTQ, method="rtn"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_files_are_the_same(tmp_path: Path, counter: Counter) -> None:
    def written(cache: Path | None) -> bytes:
        path = tmp_path / "model.onnx"
        convert(
            TINY["decoder"](1),
            path,
            passes="canonicalize, quantize{weights=int4 method=gptq}, lower",
            calibration=[sample_feeds("decoder", 0)],
            verify="off",
            force=True,
            cache=cache,
            workers=1,
        )
        return path.read_bytes() + path.with_name("model.onnx.data").read_bytes()

    expected = written(None)
    counter.most = counter.spent() // 2
    with pytest.raises(Exception, match="quantize failed") as caught:
        written(tmp_path / "cache")
    assert isinstance(caught.value.__cause__, Stopped)
    counter.most += 99
    assert written(tmp_path / "cache") == expected
