"""The list of tasks, and measuring a model beside a reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.language_models import CONFIG, write_llama, write_tokenizer

from bitfold.frontend.evaluate import evaluate
from bitfold.frontend.perplexity import score_text
from bitfold.frontend.tasks import TASKS, find_task
from bitfold.frontend.tasks.measure import compare_each, top1_agreement
from bitfold.frontend.text_tokenizer import TextTokenizer
from bitfold.models.catalogue import MODELS
from bitfold.models.entry import TASK_KEY
from bitfold.models.tiny import TINY
from bitfold.runtime.errors import UnsupportedError
from bitfold.runtime.session import Session

TEXT = "the quick brown fox jumps over the lazy dog " * 30


def test_every_model_names_a_task() -> None:
    assert len({task.name for task in TASKS}) == len(TASKS)
    for entry in MODELS:
        assert find_task(entry.task).name == entry.task


def test_unknown_task() -> None:
    with pytest.raises(UnsupportedError) as caught:
        find_task("cooking")
    assert "similarity" in caught.value.hint


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(
        "bitfold.frontend.tasks.text_generation.default_text", lambda progress: TEXT
    )
    write_tokenizer(tmp_path, CONFIG.vocab)
    return write_llama(tmp_path / "llama.onnx")


def test_text_generation_is_perplexity(model: Path) -> None:
    found = evaluate(model, model, task="text-generation", threads=1).task
    ids = TextTokenizer(model.parent).encode(TEXT)
    expected = score_text(Session(model, threads=1).ort, ids)
    assert found is not None
    assert found.score.value == pytest.approx(expected.perplexity)
    assert found.score.samples == len(ids) // 512
    assert found.outputs["logits"].kl == pytest.approx(0, abs=1e-9)
    one = evaluate(model, task="text-generation", limit=1, threads=1).task
    assert one is not None
    assert one.score.samples == 1
    assert one.cosine is None


def test_a_task_for_another_model(tmp_path: Path) -> None:
    ir.save(TINY["cnn"](0), tmp_path / "cnn.onnx")
    with pytest.raises(UnsupportedError, match="no language model"):
        evaluate(tmp_path / "cnn.onnx", task="text-generation")


def test_the_task_in_the_metadata_is_the_default(tmp_path: Path) -> None:
    model = TINY["cnn"](0)
    model.metadata_props[TASK_KEY] = "text-generation"
    ir.save(model, tmp_path / "cnn.onnx")
    with pytest.raises(UnsupportedError, match="no language model"):
        evaluate(tmp_path / "cnn.onnx")
    shape = [d if isinstance(d, int) else 1 for d in model.graph.inputs[0].shape or ()]
    feeds = {model.graph.inputs[0].name or "": np.zeros(shape, np.float32)}
    given = evaluate(tmp_path / "cnn.onnx", tmp_path / "cnn.onnx", feeds=[feeds], threads=1)
    assert given.kind == "outputs"


def test_top1_agreement() -> None:
    a = np.array([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]], np.float32)
    b = np.array([[0.4, 0.6, 0.0], [0.1, 0.2, 0.7]], np.float32)
    assert top1_agreement([(a, b)]) == 0.5
    assert top1_agreement([(a, b), (a, a)]) == 0.75
    assert top1_agreement([(a[None], b[None])]) == 0.5
    assert top1_agreement([(a[0], b[0])]) is None  # no batch
    assert top1_agreement([(a[:, :1], b[:, :1])]) is None  # one class
    assert top1_agreement([(a[None, None], b[None, None])]) is None  # an image
    assert top1_agreement([(a.astype(np.int64), b.astype(np.int64))]) is None
    assert top1_agreement([]) is None
    assert top1_agreement([(a - 0.3, b)]) is None  # an embedding
    assert top1_agreement([(2 * a, b)]) is None  # positive, but no probabilities
    assert top1_agreement([(a.astype(np.float16), b.astype(np.float16))]) == 0.5
    assert top1_agreement([(a, b - 0.3)]) == 0.5  # what it is the reference says


def test_only_logits_and_probabilities_have_a_top1(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[n, 4] x) => (float[n, 4] logits, float[n, 4] p, float[n, 4] embedding)
    {
        logits = Neg(x)
        p = Softmax(x)
        embedding = Mul(x, x)
    }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    session = Session(tmp_path / "m.onnx", threads=1)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    found = compare_each(session, session, [{"x": x}])
    assert {name: each.top1 for name, each in found.items()} == {
        "logits": 1, "p": 1, "embedding": None,
    }  # fmt: skip


def test_each_output_has_its_own_figures(tmp_path: Path) -> None:
    """Two outputs, of which one is halved and the other has its columns swapped."""
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[n, 2] x) => (float[n, 2] half, float[n, 2] swapped)
    <float one = {1.0}, int64[2] same = {0, 1}> {
        half = Mul(x, one)
        swapped = Gather<axis = 1>(x, same)
    }"""
    (tmp_path / "a").mkdir()
    onnx.save(onnx.parser.parse_model(text), tmp_path / "a.onnx")
    changed = text.replace("{1.0}", "{0.5}").replace("{0, 1}", "{1, 0}")
    onnx.save(onnx.parser.parse_model(changed), tmp_path / "b.onnx")
    x = np.array([[3, 4], [4, 3], [1, 0]], np.float32)
    a, b = (Session(tmp_path / f"{name}.onnx", threads=1) for name in "ab")
    found = compare_each(b, a, [{"x": x}, {"x": x[:1]}])
    assert found["half"].sqnr_db == pytest.approx(20 * np.log10(2), abs=1e-4)
    assert found["half"].cosine == pytest.approx(1)
    assert found["half"].top1 is None
    # Σ 2·x₀·x₁ over Σ x²: 48/51 in the first sample, 24/25 in the second.
    assert found["swapped"].cosine == pytest.approx((48 / 51 + 24 / 25) / 2)
    assert found["swapped"].kl is None
