"""The sentence encoder against NumPy, and what padding may not change."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from oracles.transformer_numpy import bert_numpy
from support.small_encoders import BERT, draw_weights

from bitfold.models import minilm
from bitfold.models.bert import build_bert
from bitfold.models.safetensors_file import SafetensorsFile
from bitfold.runtime.errors import ModelError

WEIGHTS = draw_weights(BERT.weight_shapes())
IDS = np.array([3, 17, 5, 49, 0, 8, 21])


def _session(model: ir.Model) -> ort.InferenceSession:
    return ort.InferenceSession(ir.to_proto(model).SerializeToString())


def _feeds(ids: np.ndarray, padding: int = 0) -> dict[str, np.ndarray]:
    keep = np.ones(len(ids) + padding, np.int64)
    keep[len(ids) :] = 0
    padded = np.concatenate([ids, np.full(padding, 7)])
    return {
        "input_ids": padded[None],
        "attention_mask": keep[None],
        "token_type_ids": np.zeros_like(padded)[None],
    }


@pytest.fixture(scope="module")
def session() -> ort.InferenceSession:
    return _session(build_bert(BERT, WEIGHTS))


def test_equals_the_oracle(session: ort.InferenceSession) -> None:
    hidden, pooled = session.run(None, _feeds(IDS))
    expected = bert_numpy(WEIGHTS, BERT.heads, BERT.layers, IDS)
    np.testing.assert_allclose(hidden[0], expected, atol=2e-5)
    mean = expected.mean(0)
    np.testing.assert_allclose(pooled[0], mean / np.linalg.norm(mean), atol=2e-5)


def test_padding_changes_nothing(session: ort.InferenceSession) -> None:
    hidden, pooled = session.run(None, _feeds(IDS))
    padded, same = session.run(None, _feeds(IDS, padding=5))
    np.testing.assert_allclose(padded[:, : len(IDS)], hidden, atol=1e-5)
    np.testing.assert_allclose(same, pooled, atol=1e-6)


def test_nothing_but_padding_is_finite(session: ort.InferenceSession) -> None:
    feeds = _feeds(IDS)
    feeds["attention_mask"][:] = 0
    for output in session.run(None, feeds):
        assert np.isfinite(output).all()


def test_weights_that_do_not_fit() -> None:
    with pytest.raises(ModelError, match=r"weight encoder\.layer\.1\.output\.dense\.bias is miss"):
        build_bert(
            BERT, {k: v for k, v in WEIGHTS.items() if k != "encoder.layer.1.output.dense.bias"}
        )
    name = "embeddings.word_embeddings.weight"
    with pytest.raises(ModelError, match=r"expected shape \[50, 24\], found \[24, 50\]"):
        build_bert(BERT, {**WEIGHTS, name: WEIGHTS[name].T})


def test_safetensors_weights(tmp_path: Path, session: ort.InferenceSession) -> None:
    save_file = pytest.importorskip("safetensors.numpy").save_file
    path = tmp_path / "model.safetensors"
    halves = {name: array.astype(np.float16) for name, array in WEIGHTS.items()}
    save_file({**halves, "pooler.dense.bias": np.zeros(3, np.float32)}, path)
    found = _session(build_bert(BERT, SafetensorsFile(path).weight)).run(None, _feeds(IDS))
    for a, b in zip(found, session.run(None, _feeds(IDS)), strict=True):
        np.testing.assert_array_equal(a, b)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="safetensors"):
        SafetensorsFile(path)


def test_the_published_tokenizer_loses_its_padding(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    vocab = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "big": 4, "##ger": 5}
    published = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab, unk_token="[UNK]"))
    published.normalizer = tokenizers.normalizers.BertNormalizer()
    published.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    published.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    published.enable_padding(length=128)
    published.enable_truncation(128)
    published.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    (tmp_path / "out").mkdir()
    minilm.write_tokenizer(tmp_path / "model.safetensors", tmp_path / "out")
    written = tokenizers.Tokenizer.from_file(str(tmp_path / "out/tokenizer.json"))
    assert written.encode("Bigger, big").ids == [2, 4, 5, 1, 4, 3]
    assert len(written.encode("big " * 300).ids) == minilm.LENGTH
    config = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert config["model_max_length"] == minilm.LENGTH
