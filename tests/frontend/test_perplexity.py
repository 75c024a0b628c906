from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bitfold.frontend.perplexity import causal_feed, score_text
from bitfold.runtime.errors import CalibrationError, ModelError

VOCAB = 11


class TableModel:
    """A model whose logits depend on the current token alone; it keeps what it was fed."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = table.astype(np.float32)
        self.fed: list[np.ndarray] = []

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="input_ids", shape=["b", "s"], type="tensor(int64)")]

    def run(self, output_names: Any, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.fed.append(feeds["input_ids"].copy())
        return [self.table[feeds["input_ids"]]]


def _random_model(seed: int, vocab: int = VOCAB) -> TableModel:
    return TableModel(np.random.default_rng(seed).normal(size=(VOCAB, vocab)) * 3)


def _probabilities(model: TableModel, token: int) -> list[float]:
    weights = [math.exp(float(x)) for x in model.table[token]]
    return [w / math.fsum(weights) for w in weights]


def test_uniform_model_has_the_vocabulary_as_perplexity() -> None:
    score = score_text(TableModel(np.zeros((VOCAB, VOCAB))), np.arange(100) % VOCAB, chunk=10)
    assert score.perplexity == pytest.approx(VOCAB)
    assert (score.chunks, score.tokens) == (10, 40)
    assert score.kl is None
    assert score.top1 is None


@pytest.mark.parametrize("chunk", [4, 7, 16])
def test_equals_a_sum_by_hand(chunk: int) -> None:
    model, base = _random_model(0), _random_model(1)
    ids = np.random.default_rng(2).integers(0, VOCAB, 50).tolist()
    nll, base_nll, kl, same, count = 0.0, 0.0, 0.0, 0, 0
    for start in range(0, len(ids) - chunk + 1, chunk):
        for at in range(start + chunk // 2, start + chunk - 1):
            p, q = _probabilities(base, ids[at]), _probabilities(model, ids[at])
            nll -= math.log(q[ids[at + 1]])
            base_nll -= math.log(p[ids[at + 1]])
            kl += math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            same += p.index(max(p)) == q.index(max(q))
            count += 1
    score = score_text(model, ids, chunk, reference=base)
    assert score.tokens == count
    assert score.perplexity == pytest.approx(math.exp(nll / count), rel=1e-9)
    assert score.reference_perplexity == pytest.approx(math.exp(base_nll / count), rel=1e-9)
    assert score.kl == pytest.approx(kl / count, rel=1e-6)
    assert score.top1 == same / count


def test_a_model_against_itself() -> None:
    ids = np.random.default_rng(2).integers(0, VOCAB, 50)
    score = score_text(_random_model(0), ids, 16, reference=_random_model(0))
    assert score.kl == 0
    assert score.top1 == 1
    assert score.perplexity == score.reference_perplexity


def test_kl_is_from_the_reference() -> None:
    # KL((.5, .5) || (.9, .1)) = .5 ln(.5/.9) + .5 ln(.5/.1); the other way round it is .368.
    flat = TableModel(np.log(np.full((2, 2), 0.5)))
    sharp = TableModel(np.log(np.tile([0.9, 0.1], (2, 1))))
    score = score_text(sharp, [0, 1] * 4, 4, reference=flat)
    assert score.kl == pytest.approx(0.5108256, abs=1e-6)


def test_chunks_start_afresh_and_the_rest_is_not_used() -> None:
    model = _random_model(0)
    score_text(model, np.arange(23) % VOCAB, 10)
    assert [fed[0].tolist() for fed in model.fed] == [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [10, 0, 1, 2, 3, 4, 5, 6, 7, 8],
    ]


def test_bos_takes_the_first_place_but_leaves_the_targets() -> None:
    model, plain = _random_model(0), _random_model(0)
    ids = np.arange(20) % VOCAB
    with_bos, without = score_text(model, ids, 10, bos=7), score_text(plain, ids, 10)
    assert [fed[0, 0] for fed in model.fed] == [7, 7]
    assert [fed[0, 1:].tolist() for fed in model.fed] == [f[0, 1:].tolist() for f in plain.fed]
    # The table model sees one token only, so the scored second half does not change.
    assert with_bos == without


def test_huge_logits_do_not_overflow() -> None:
    score = score_text(TableModel(np.eye(VOCAB) * 3e38), np.zeros(8, np.int64), 4)
    assert score.perplexity == 1


@pytest.mark.parametrize(("ids", "chunk"), [([1, 2, 3], 4), ([], 4), ([1] * 9, 3)])
def test_too_short(ids: list[int], chunk: int) -> None:
    with pytest.raises(CalibrationError, match="at least"):
        score_text(_random_model(0), ids, chunk)


def test_vocabularies_must_agree() -> None:
    with pytest.raises(ModelError, match="reference has 12 tokens, the model 11"):
        score_text(_random_model(0), [1] * 8, 4, reference=_random_model(0, vocab=12))


def test_feed_covers_mask_positions_and_an_empty_cache() -> None:
    inputs = [
        SimpleNamespace(name="input_ids", shape=["b", "s"], type="tensor(int64)"),
        SimpleNamespace(name="attention_mask", shape=["b", "t"], type="tensor(int64)"),
        SimpleNamespace(name="position_ids", shape=["b", "s"], type="tensor(int64)"),
        SimpleNamespace(
            name="past_key_values.0.key", shape=["b", 3, "p", 8], type="tensor(float16)"
        ),
    ]
    session: Any = SimpleNamespace(get_inputs=lambda: inputs)
    feed = causal_feed(session, np.array([4, 5, 6]))
    assert feed["attention_mask"].tolist() == [[1, 1, 1]]
    assert feed["position_ids"].tolist() == [[0, 1, 2]]
    assert feed["past_key_values.0.key"].shape == (1, 3, 0, 8)
    assert feed["past_key_values.0.key"].dtype == np.float16


def test_foreign_inputs_are_named() -> None:
    item = SimpleNamespace(name="pixel_values", shape=[1], type="tensor(float)")
    session: Any = SimpleNamespace(get_inputs=lambda: [item])
    with pytest.raises(ModelError, match="pixel_values"):
        causal_feed(session, np.array([1]))


def test_a_cache_of_a_strange_type_is_named() -> None:
    item = SimpleNamespace(
        name="past_key_values.0.key", shape=["b", 1, "p", 8], type="tensor(bool)"
    )
    session: Any = SimpleNamespace(get_inputs=lambda: [item])
    with pytest.raises(ModelError, match=r"past_key_values\.0\.key.*tensor\(bool\)"):
        causal_feed(session, np.array([1]))
