"""``--calibration self`` and ``random``: inputs made of the model alone, and said to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from scipy.special import softmax

from bitfold.frontend import made_calibration as made_calibration_module
from bitfold.frontend.cli.main import cli
from bitfold.frontend.made_calibration import UNPROVEN, made_calibration
from bitfold.frontend.self_text import CERTAIN, drawn, self_text
from bitfold.models.tiny import TINY
from bitfold.runtime.errors import UnsupportedError
from bitfold.runtime.session import Session

RECIPE = "canonicalize, quantize{weights=int4 acts=none method=gptq}"


@pytest.fixture
def decoder(tmp_path: Path) -> Path:
    path = tmp_path / "decoder.onnx"
    ir.save(TINY["decoder"](0), path)
    return path


def test_texts_are_what_the_model_goes_on_with(decoder: Path) -> None:
    ids = self_text(decoder, texts=3, length=14)
    assert ids.shape == (3, 14)
    assert len(set(ids[:, 0])) == 3
    logits = Session(decoder).decoder(batch=3).step(ids)
    likeliest = logits.argmax(-1)
    np.testing.assert_array_equal(ids[:, 1 : 1 + CERTAIN], likeliest[:, :CERTAIN])
    assert not np.array_equal(ids[:, 1 + CERTAIN :], likeliest[:, CERTAIN:-1])
    np.testing.assert_array_equal(ids, self_text(decoder, texts=3, length=14))
    assert not np.array_equal(ids, self_text(decoder, texts=3, length=14, seed=1))
    begun = self_text(decoder, texts=3, length=14, first=7)
    assert (begun[:, 0] == 7).all()


def test_tokens_are_drawn_by_their_probabilities() -> None:
    logits = np.log(np.array([[0.5, 0.2, 0.3]]))
    uniform = (np.arange(1000) + 0.5) / 1000
    counts = np.bincount(drawn(np.repeat(logits, 1000, 0), uniform), minlength=3)
    np.testing.assert_array_equal(counts, np.rint(1000 * softmax(logits[0])))


@pytest.mark.parametrize("kind", ["self", "random"])
def test_the_report_says_that_accuracy_is_unproven(
    decoder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made_calibration_module, "TEXTS", 2)
    monkeypatch.setattr(made_calibration_module, "LENGTH", 16)
    out = decoder.with_name("out.onnx")
    arguments = ["convert", str(decoder), "-o", str(out), "--passes", RECIPE, "--verify", "off"]
    done = CliRunner().invoke(cli, [*arguments, "--calibration", kind])
    assert done.exit_code == 0, done.output
    assert UNPROVEN in done.output
    both = ["--calibration", kind, "--calibration", str(decoder)]
    done = CliRunner().invoke(cli, [*arguments, "--force", *both])
    assert done.exit_code == 2
    assert "expected no other calibration inputs" in done.output


def test_a_model_that_writes_no_text(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="writes no text"):
        made_calibration("self", TINY["vit"](0), None, 0)


def test_random_inputs_fit_the_model() -> None:
    model = TINY["vit"](0)
    made = made_calibration("random", model, None, 0)
    assert made.origin == "random numbers"
    shapes = {name: array.shape for name, array in made.feeds[0].items()}
    assert shapes.keys() == {value.name for value in model.graph.inputs}
