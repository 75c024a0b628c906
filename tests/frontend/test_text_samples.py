"""Samples from text fit every kind of language model, or give way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import parse
from support.language_models import CONFIG, write_llama, write_tokenizer

import bitfold
from bitfold.frontend.feeds import CHUNK, load_feeds
from bitfold.frontend.importers import import_model
from bitfold.frontend.text_samples import LENGTH, PAST, STEP, causal_feeds, text_samples
from bitfold.models import tiny
from bitfold.passes.core.context import Context
from bitfold.passes.core.own_coordinates import rotation_of
from bitfold.passes.core.pipeline import Pipeline
from bitfold.runtime.execution import open_session

VOCAB = 64


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path, VOCAB)


def embedding(ids: str, vocab: int = VOCAB, cache: str = "") -> ir.Model:
    """Look up, project; with ``cache``, also carry a key/value cache of that type along."""
    rng = np.random.default_rng(0)
    given = f", {cache} past" if cache else ""
    made = ", " + cache.replace("16[", "[") + " present" if cache else ""
    model = parse(
        f"""g ({ids} input_ids{given}) => (float[B, S, 32] logits{made}) {{
        e = Gather (w, input_ids)
        logits = MatMul (e, h)
        {"present = Cast <to = 1> (past)" if cache else ""}
    }}""",
        w=rng.standard_normal((vocab, 64)).astype(np.float32),
        h=rng.standard_normal((64, 32)).astype(np.float32),
    )
    if cache:
        model.graph.inputs[1].name = "past_key_values.0.key"
        model.graph.outputs[1].name = "present.0.key"
    return model


def notes() -> tuple[list[str], object]:
    said: list[str] = []
    return said, lambda text, fraction: said.append(text)


def test_a_prompt_and_its_continuation(tmp_path: Path, tokenizer: Path) -> None:
    model = import_model(write_llama(tmp_path / "m.onnx"))
    prompt, step = text_samples(model, tokenizer)
    assert prompt["input_ids"].shape == (1, LENGTH)
    assert step["input_ids"].shape == (1, STEP)
    np.testing.assert_array_equal(step["input_ids"], prompt["input_ids"][:, PAST : PAST + STEP])
    session = open_session(model)
    whole, rest = session.run(prompt)["logits"], session.run(step)["logits"]
    np.testing.assert_allclose(rest, whole[:, PAST : PAST + STEP], rtol=1e-3, atol=1e-4)


def test_caches_are_in_the_original_coordinates(tokenizer: Path) -> None:
    model = tiny.TINY["decoder"](0)
    with Context() as context:
        recipe = "canonicalize, fold-norm-gain, rotate"
        rotated, _ = Pipeline(recipe, context, verify="off").run(model)
        assert any(rotation_of(value) is not None for value in rotated.graph.inputs)
        (_, plain), (_, found) = (text_samples(each, tokenizer) for each in (model, rotated))
    for name, array in plain.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("ids", "shape", "dtype"),
    [
        ("int64[B, S]", (1, LENGTH), np.int64),
        ("int32[B, S]", (1, LENGTH), np.int32),
        ("int64[1, 16]", (1, 16), np.int64),
        ("int64[2, S]", (2, LENGTH), np.int64),
    ],
)
def test_types_and_fixed_lengths(
    tokenizer: Path, ids: str, shape: tuple[int, int], dtype: type[np.generic]
) -> None:
    [sample] = text_samples(embedding(ids), tokenizer)
    assert sample["input_ids"].shape == shape
    assert sample["input_ids"].dtype == dtype
    assert len(np.unique(sample["input_ids"])) > 4
    if shape[0] > 1:
        assert (sample["input_ids"][0] != sample["input_ids"][1]).any()


def test_half_precision_caches(tokenizer: Path) -> None:
    sample = text_samples(embedding("int64[B, S]", cache="float16[B, 2, P, 8]"), tokenizer)[0]
    assert sample["past_key_values.0.key"].dtype == np.float16
    assert sample["past_key_values.0.key"].shape == (1, 2, 0, 8)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (embedding("int64[B, S]", vocab=10), "another model's"),
        (embedding("int64[B, S]", cache="float[B, P, 16]"), "past_key_values.0.key"),
        (embedding("int64[B, S]", cache="float[B, 2, 5, 8]"), "axis 2"),
        (embedding("int64[S]"), "expected [batch, sequence]"),
    ],
)
def test_a_text_that_does_not_suit_gives_way(tokenizer: Path, model: ir.Model, said: str) -> None:
    heard, progress = notes()
    assert text_samples(model, tokenizer, progress=progress) == []  # type: ignore[arg-type]
    assert said in heard[0]


def test_a_model_that_refuses_the_text_gives_way(tokenizer: Path) -> None:
    model = parse(
        """g (int64[B, S] input_ids, int64[B, S] position_ids) => (float[B, S, 8] logits) {
        e = Gather (w, input_ids)
        p = Gather (positions, position_ids)
        logits = Add (e, p)
    }""",
        w=np.ones((VOCAB, 8), np.float32),
        positions=np.ones((16, 8), np.float32),
    )
    heard, progress = notes()
    assert text_samples(model, tokenizer, progress=progress) == []  # type: ignore[arg-type]
    assert "cannot run" in heard[0]


def test_a_broken_tokenizer_gives_way(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    heard, progress = notes()
    samples = text_samples(
        embedding("int64[B, S]"),
        tmp_path / "tokenizer.json",
        progress=progress,  # type: ignore[arg-type]
    )
    assert samples == []
    assert "tokenizer.json" in heard[0]


def test_other_models_read_no_text(tokenizer: Path) -> None:
    model = parse("g (float[N] x) => (float[N] y) { y = Relu (x) }")
    heard, progress = notes()
    assert text_samples(model, tokenizer, progress=progress) == []  # type: ignore[arg-type]
    assert heard == []


@pytest.mark.parametrize("ids", ["int32[B, S]", "int64[1, 16]", "int64[2, S]"])
def test_models_with_a_tokenizer_beside_them_convert(tokenizer: Path, ids: str) -> None:
    path = tokenizer.with_name("m.onnx")
    ir.save(embedding(ids), path)
    result = bitfold.convert(path, preset="w8a8")
    assert result.report.total is not None
    (tokenizer).write_text("{}")
    assert bitfold.convert(path, preset="w8a8").report.total is not None


def test_a_batch_of_rows(tmp_path: Path) -> None:
    model = import_model(write_llama(tmp_path / "m.onnx"))
    tokens = np.random.default_rng(0).integers(0, CONFIG.vocab, (2, 5))
    feeds = causal_feeds(model, tokens, {})
    assert feeds["attention_mask"].shape == (2, 5)
    both = open_session(model).run(feeds)["logits"]
    for row in (0, 1):
        alone = open_session(model).run(causal_feeds(model, tokens[row : row + 1], {}))["logits"]
        np.testing.assert_allclose(both[row], alone[0], rtol=1e-4, atol=1e-5)


def test_feeds_of_a_text_file_take_the_models_types(tokenizer: Path, tmp_path: Path) -> None:
    path = tokenizer.with_name("m.onnx")
    ir.save(embedding("int32[B, S]"), path)
    (tmp_path / "t.txt").write_text("the cat sat " * 100)
    feeds = load_feeds(tmp_path / "t.txt", path)
    assert [each["input_ids"].shape for each in feeds] == [(1, CHUNK)] * 2
    assert feeds[0]["input_ids"].dtype == np.int32
