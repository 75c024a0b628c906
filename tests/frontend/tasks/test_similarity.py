"""Embeddings of a small encoder, scored on made-up ratings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from support.small_encoders import BERT, draw_weights

from bitfold.frontend.evaluate import evaluate
from bitfold.frontend.tasks.similarity import Similarity, TextEncoder, pearson, spearman
from bitfold.frontend.tasks.task import Setting
from bitfold.models import word_similarity
from bitfold.models.bert import build_bert
from bitfold.models.tiny import TINY
from bitfold.runtime.errors import ModelError, UnsupportedError
from bitfold.runtime.session import Session

WORDS = ["cat", "dog", "sun", "moon", "sea", "tree", "car", "road"]


def write_encoder(folder: Path, seed: int = 0) -> Path:
    tokenizers = pytest.importorskip("tokenizers")
    folder.mkdir(exist_ok=True)
    vocab = {word: i for i, word in enumerate(["[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    ir.save(build_bert(BERT, draw_weights(BERT.weight_shapes(), seed)), folder / "model.onnx")
    return folder / "model.onnx"


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return write_encoder(tmp_path / "encoder")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ratings in a folder, in place of what the catalogue fetches."""
    folder = tmp_path / "data"
    folder.mkdir()
    pairs = "# two words\tand a number\ncat\tdog\t7.5\nsun\tmoon\t9\nsea\tcar\t1\ntree\troad\t0.5\n"
    for file in word_similarity.PAIRS.values():
        (folder / file).write_text(pairs)
    (folder / "lee.cor").write_bytes(b"cat dog\nsun \xa3 moon moon\nsea\n")
    np.savetxt(folder / "similarities0-1.txt", [[1, 0.2, 0.4], [0.2, 1, 0.9], [0.4, 0.9, 1]])
    monkeypatch.setattr(
        "bitfold.models.catalogue.fetch_entry",
        lambda entry, progress: folder / entry.file_name,
    )
    return folder


def test_batches_embed_as_single_texts(encoder: Path) -> None:
    texts = ["cat", "dog sun sea tree", "moon moon", "car road unheard"]
    found = TextEncoder(Session(encoder, threads=1))
    alone = np.concatenate([found.embed([text]) for text in texts])
    np.testing.assert_allclose(found.embed(texts), alone, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, atol=1e-6)
    many = found.embed(texts * 20)  # more than a batch
    np.testing.assert_allclose(many, np.tile(alone, (20, 1)), atol=1e-6)


def test_score_is_the_correlation_with_the_ratings(encoder: Path, data: Path) -> None:
    session = Session(encoder, threads=1)
    score = Similarity().score(session, Setting())
    embed = {word: TextEncoder(session).embed([word])[0] for word in WORDS}
    pairs = [("cat", "dog"), ("sun", "moon"), ("sea", "car"), ("tree", "road")]
    cosines = [float(embed[a] @ embed[b]) for a, b in pairs]
    ranks, rated = np.argsort(np.argsort(cosines)), np.array([2, 3, 1, 0])
    assert score.value == pytest.approx(1 - 6 * ((ranks - rated) ** 2).sum() / (4 * (16 - 1)))
    assert score.higher_is_better
    assert score.samples == 4
    assert score.details["SimLex999 Spearman"] == pytest.approx(score.value)
    assert -1 <= score.details["Lee Pearson"] <= 1


def test_limit_takes_the_first_pairs(encoder: Path, data: Path) -> None:
    score = Similarity().score(Session(encoder, threads=1), Setting(limit=2))
    assert score.samples == 2
    assert abs(score.value) == pytest.approx(1)


def test_correlations() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 25]) == pytest.approx(0.8)
    assert spearman([1, 2, 3], [5, 5, 7]) == pytest.approx(np.sqrt(3) / 2)
    assert pearson(np.array([1.0, 2, 3]), np.array([2.0, 4, 7])) == pytest.approx(0.99339927)


def test_eval_prints_both_and_the_cosine(encoder: Path, data: Path, tmp_path: Path) -> None:
    same = evaluate(encoder, encoder, task="similarity", threads=1).task
    assert same is not None
    assert same.reference == same.score
    assert same.cosine == pytest.approx(1, abs=1e-6)
    assert set(same.outputs) == {"last_hidden_state", "sentence_embedding"}
    assert same.inputs == 6  # three texts, three words
    other = evaluate(encoder, write_encoder(tmp_path / "other", 5), task="similarity", threads=1)
    assert other.task is not None
    assert other.task.cosine == min(each.cosine for each in other.task.outputs.values())
    assert other.task.cosine < 0.99


def test_models_that_embed_nothing(tmp_path: Path) -> None:
    ir.save(TINY["bert"](0), tmp_path / "bert.onnx")
    with pytest.raises(UnsupportedError, match="embeds no texts"):
        Similarity().score(Session(tmp_path / "bert.onnx", threads=1), Setting(limit=1))


def test_ratings_that_do_not_fit(data: Path) -> None:
    (data / "lee.cor").write_text("one\ntwo\n")
    with pytest.raises(ModelError, match="expected ratings of 2 texts"):
        word_similarity.read_documents(data / "wordsim353.tsv")
    (data / "wordsim353.tsv").write_text("cat\tdog\n")
    with pytest.raises(ModelError, match="expected two words and a number, found 'cat"):
        word_similarity.read_pairs(data / "wordsim353.tsv")
