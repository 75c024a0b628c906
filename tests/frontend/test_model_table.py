"""The table of converted models, on a tiny one with a task made up for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bitfold.frontend import model_table as module
from bitfold.frontend.emit import write_model
from bitfold.frontend.model_table import Row, model_table
from bitfold.frontend.tasks import Score, Setting
from bitfold.models.catalogue import MODELS
from bitfold.models.tiny import sample_feeds
from bitfold.models.tiny.vit import vit
from bitfold.passes.core.context import Feeds
from bitfold.runtime.errors import UnsupportedError
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
    return list(
        model_table([MODELS[0].name], presets=["w8a8", "nonsense"], targets=["native", "portable"])
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
    assert [row.value for row in failed] == [None, None]
    assert all("no preset 'nonsense'" in row.error for row in failed)


def test_a_model_that_the_catalogue_lacks() -> None:
    with pytest.raises(UnsupportedError, match="no model 'nothing'"):
        next(model_table(["nothing"]))
