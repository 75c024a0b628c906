"""The table of converted models, on a tiny one with a task made up for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitfold.frontend import model_table as module
from bitfold.frontend.convert import ConvertResult
from bitfold.frontend.convert import convert as real_convert
from bitfold.frontend.emit import write_model
from bitfold.frontend.model_table import Row, model_table
from bitfold.frontend.tasks import Score, Setting
from bitfold.models.catalogue import MODELS
from bitfold.models.tiny import sample_feeds
from bitfold.models.tiny.vit import vit
from bitfold.passes.core.context import Feeds
from bitfold.runtime.errors import RecipeError, UnsupportedError
from bitfold.runtime.session import Session


class MeanOutput:
    """Scores a model by the mean magnitude of its first output."""

    name = "mean-output"
    summary = "for this test"

    def feeds(self, session: Session, setting: Setting) -> list[Feeds]:
        return [sample_feeds("vit", seed) for seed in range(2)]

    def score(self, session: Session, setting: Setting) -> Score:
        feeds = self.feeds(session, setting)
        values = [np.abs(next(iter(session.run(each).values()))).mean() for each in feeds]
        return Score("mean output", float(np.mean(values)), True, len(values))


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    write_model(vit(0, outliers=False), tmp_path / "model.onnx")
    monkeypatch.setattr(module, "find_model", lambda name, progress: tmp_path / "model.onnx")
    monkeypatch.setattr(module, "find_task", lambda name: MeanOutput())

    def convert(model: Path, output: Path, *, preset: str, **options: Any) -> ConvertResult:
        if preset == "w4a8":
            raise UnsupportedError("not this one")
        return real_convert(model, output, preset=preset, **options)

    monkeypatch.setattr(module, "convert", convert)
    return list(
        model_table([MODELS[0].name], presets=["w8a8", "w4a8"], targets=["native", "portable"])
    )


def test_rows_are_measured_against_the_float_one(rows: list[Row]) -> None:
    base, native, portable, *failed = rows
    assert (base.preset, base.cosine, base.speed) == ("float", 1.0, 1.0)
    assert base.value is not None
    for row in (native, portable):
        assert not row.error
        assert row.metric == "mean output"
        assert 0 < row.size < base.size
        assert row.value == pytest.approx(base.value, rel=0.05)
        assert row.cosine is not None
        assert 0.99 < row.cosine < 1
        assert row.speed is not None
        assert row.speed > 0
    assert [(row.preset, row.value, row.error) for row in failed] == [
        ("w4a8", None, "not this one")
    ] * 2


def test_a_model_that_the_catalogue_lacks() -> None:
    with pytest.raises(UnsupportedError, match="no model 'nothing'"):
        next(model_table(["nothing"]))


@pytest.mark.parametrize("wrong", [{"presets": ["nonsense"]}, {"targets": ["nonsense"]}])
def test_what_no_recipe_has_is_refused_before_anything_is_measured(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="nonsense"):
        next(model_table(**wrong))
