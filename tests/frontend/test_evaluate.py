"""Evaluation: text scores against an independent sum, outputs against known errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.language_models import CONFIG, write_llama, write_tokenizer

from bitfold.frontend.evaluate import compare_each, evaluate
from bitfold.frontend.feeds import load_feeds, read_npz
from bitfold.frontend.text_tokenizer import TextTokenizer
from bitfold.models.tiny import TINY
from bitfold.runtime.errors import CalibrationError, VerificationError
from bitfold.runtime.session import Session

TEXT = "the quick brown fox jumps over the lazy dog " * 4


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path, CONFIG.vocab)
    return write_llama(tmp_path / "llama.onnx")


def test_perplexity_is_that_of_a_plain_loop(model: Path) -> None:
    ids = TextTokenizer(model.parent).encode(TEXT)
    losses = []
    for start in (0, 16):
        logits = Session(model).decoder().step(ids[start : start + 16])[0].astype(np.float64)
        for position in range(8, 15):
            row = logits[position]
            losses.append(np.log(np.exp(row).sum()) - row[ids[start + position + 1]])
    found = evaluate(model, text=TEXT, chunk=16, chunks=2, threads=1)
    assert found.score is not None
    assert found.score.tokens == len(losses)
    assert found.score.perplexity == pytest.approx(np.exp(np.mean(losses)), rel=1e-4)
    assert found.score.kl is None
    assert found.settings["of_chunks"] == len(ids) // 16


def test_bos_goes_first_where_the_model_expects_it(model: Path) -> None:
    before = evaluate(model, text=TEXT, chunk=16, threads=1).score
    (model.parent / "tokenizer_config.json").write_text(
        '{"bos_token": "<|end|>", "add_bos_token": true}'
    )
    after = evaluate(model, text=TEXT, chunk=16, threads=1).score
    assert before is not None
    assert after is not None
    assert after.perplexity != before.perplexity


def test_progress_moves_forward(model: Path) -> None:
    seen: list[float] = []
    evaluate(model, text=TEXT, chunk=16, threads=1, progress=lambda text, share: seen.append(share))
    assert seen == sorted(seen)
    assert len(seen) > 3
    assert seen[-1] < 1


def test_short_text(model: Path) -> None:
    with pytest.raises(CalibrationError, match="too short"):
        evaluate(model, text="the", chunk=16)


def test_each_output_is_compared(tmp_path: Path) -> None:
    ir.save(TINY["cnn"](0), tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    name = model.graph.output[0].name
    node = next(node for node in model.graph.node if name in node.output)
    node.output[list(node.output).index(name)] = "inner"
    factor = onnx.numpy_helper.from_array(np.array(1.1, np.float32), "factor")
    model.graph.initializer.append(factor)
    model.graph.node.append(onnx.helper.make_node("Mul", ["inner", "factor"], [name]))
    onnx.save(model, tmp_path / "b.onnx")
    found = evaluate(tmp_path / "b.onnx", tmp_path / "a.onnx", threads=1).outputs[name]
    assert found.sqnr_db == pytest.approx(20, abs=0.01)  # a tenth too much everywhere
    assert found.cosine == pytest.approx(1)


def test_other_outputs_are_refused(tmp_path: Path, model: Path) -> None:
    ir.save(TINY["cnn"](0), tmp_path / "a.onnx")
    with pytest.raises(VerificationError, match="logits"):
        compare_each(Session(tmp_path / "a.onnx"), Session(model), [])


def test_text_becomes_inputs(model: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(TEXT)
    feeds = load_feeds(tmp_path / "t.txt", model)
    assert len(feeds) == 1
    assert feeds[0]["input_ids"].shape == (1, len(TEXT))
    Session(model, threads=1).run(feeds[0])
    ir.save(TINY["cnn"](0), tmp_path / "cnn.onnx")
    with pytest.raises(CalibrationError, match="does not read text"):
        load_feeds(tmp_path / "t.txt", tmp_path / "cnn.onnx")


def test_files_that_hold_no_arrays(tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_text("text")
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    for name in ("bad.npz", "one.npz", "absent.npz"):
        with pytest.raises(CalibrationError):
            read_npz(tmp_path / name)
