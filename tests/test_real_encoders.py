"""MiniLM and both parts of Whisper: fetched, built, converted for every target, and measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.real_models import SHORT, measured

import bitfold
from bitfold.frontend.importers.build import build
from bitfold.runtime.errors import BitfoldError

pytestmark = pytest.mark.slow

# What float scores: WordSim353, and 4 of 71 words ("Mr." for mister, "old-sposed" for ill
# disposed, and a word that the transcript has twice).
FLOAT = {
    "all-minilm-l6-v2": 0.7289,
    "whisper-tiny.en-encoder": 4 / 71,
    "whisper-tiny.en-decoder": 4 / 71,
}
TARGETS = ("native",) if SHORT else ("native", "ort", "portable")


@pytest.fixture(scope="module", params=list(FLOAT))
def name(request: pytest.FixtureRequest) -> str:
    try:
        build(request.param)
        measured(build(request.param), None, request.param, limit=1)  # fetches its data
    except BitfoldError as error:
        if "could not download" in str(error) or "needs apt-get" in str(error):
            pytest.skip(str(error))
        raise
    return str(request.param)


def test_float_scores_what_is_published(name: str) -> None:
    score = measured(build(name), None, name).score
    if not SHORT:
        assert score.value == pytest.approx(FLOAT[name], abs=5e-5)
    if name == "all-minilm-l6-v2" and not SHORT:
        assert score.details["SimLex999 Spearman"] == pytest.approx(0.446, abs=5e-4)
        assert score.details["Lee Pearson"] == pytest.approx(0.656, abs=5e-4)


@pytest.mark.parametrize("target", TARGETS)
def test_w8a8_keeps_the_metric(name: str, target: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    made = bitfold.convert(build(name), path, preset="w8a8", target=target)
    assert [each.name for each in made.report.passes if each.status == "rolled-back"] == []
    found = measured(path, build(name), name)
    assert found.reference is not None
    assert found.cosine is not None
    if found.score.higher_is_better:
        # A rank correlation over few pairs moves with each pair that changes its place.
        slack = 0.02 if SHORT else 0.01
        assert found.score.value == pytest.approx(found.reference.value, abs=slack)
    else:
        # One clip hangs in the balance (disposed, "-sposed"): rounding may right it, not wrong it.
        assert found.score.value <= found.reference.value
        key = "NLL a token"
        assert found.score.details[key] == pytest.approx(found.reference.details[key], abs=0.01)
    assert found.cosine >= 0.999


@pytest.mark.parametrize("target", TARGETS)
def test_w4a8_stays_close(name: str, target: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    bitfold.convert(build(name), path, preset="w4a8", target=target)
    found = measured(path, build(name), name)
    assert found.reference is not None
    assert found.cosine is not None
    sign = 1 if found.score.higher_is_better else -1
    # A word of 71 is 0.014; the short form has fewer words and pairs.
    lost = sign * (found.reference.value - found.score.value)
    assert lost <= (0.05 if SHORT else 0.03)
    assert found.cosine >= 0.96
