"""The real SmolLM2: fetched once into the cache, then checked against published figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from oracles.llama_numpy import gguf_logits
from tokenizers import Tokenizer

from bitfold.frontend.importers.build import build
from bitfold.frontend.importers.gguf import GgufFile, read_config
from bitfold.frontend.perplexity import logits, score_text
from bitfold.models import lee_background, smollm2
from bitfold.models.catalogue import fetch
from bitfold.runtime.errors import BitfoldError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model() -> Path:
    try:
        return build("smollm2-135m")
    except BitfoldError as error:
        if "could not download" in str(error):
            pytest.skip(str(error))
        raise


def _token_ids(model: Path) -> list[int]:
    text = lee_background.read_text(fetch("lee-background"), lee_background.EVALUATION)
    tokenizer = Tokenizer.from_file(str(model.with_name("tokenizer.json")))
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == text
    return ids


def test_configuration_is_the_published_one(model: Path) -> None:
    assert read_config(GgufFile(fetch("smollm2-135m"))) == smollm2.CONFIG


def test_logits_equal_the_oracle(model: Path) -> None:
    ids = np.array(_token_ids(model)[:48])
    expected = gguf_logits(fetch("smollm2-135m"), ids)
    found = logits(ort.InferenceSession(model), ids)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
    assert (found.argmax(-1) == expected.argmax(-1)).all()


def test_perplexity_is_llama_cpps(model: Path) -> None:
    score = score_text(ort.InferenceSession(model), _token_ids(model))
    # llama.cpp prints 24.87 for the same text, weights and procedure.
    assert score.perplexity == pytest.approx(24.87, abs=0.01)
    assert (score.chunks, score.tokens) == (18, 18 * 255)
