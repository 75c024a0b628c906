"""``FusedAttention``'s function body in stock ORT against the oracle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from support.attention_checks import MODELS
from support.attention_nodes import AttentionCase, body_model

CASES = [
    *MODELS,
    replace(MODELS[0], spare=7),
    replace(MODELS[1], spare=3, batch=3, short=2),
    replace(MODELS[3], mask="hqk", batch=2, short=5),
    AttentionCase((4, 2, 8), 1, past=6, causal=True, packed=True, mask="b11k", batch=2),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_body_agrees_with_the_oracle(case: AttentionCase) -> None:
    """Without the library ORT runs the body."""
    feeds = case.feeds()
    model = body_model(case, feeds)
    onnx.checker.check_model(model)
    found = ort.InferenceSession(model.SerializeToString()).run(None, feeds)
    for y, expected in zip(found, case.expected(feeds), strict=True):
        assert y.shape == expected.shape
        assert np.abs(y - expected).max() < 3e-6


def test_nothing_seen_gives_zeros() -> None:
    """A query whose keys are all masked, and a batch entry without keys."""
    case = AttentionCase((2, 1, 8), 5, added=9, batch=2, short=20, mask="qk")
    feeds = case.feeds()
    feeds["mask"][3] = -np.inf
    y = ort.InferenceSession(body_model(case, feeds).SerializeToString()).run(None, feeds)[0]
    assert not y[1].any()
    assert not y[0, 3].any()
    np.testing.assert_allclose(y, case.expected(feeds)[0], atol=3e-6)


def test_what_the_cache_holds_behind_its_keys_is_not_looked_at() -> None:
    """NaN there spoils nothing."""
    case = AttentionCase((4, 2, 8), 3, past=6, spare=10, causal=True)
    feeds = case.feeds()
    for name in ("past_key", "past_value"):
        feeds[name][:, :, 6:] = np.nan
    y = ort.InferenceSession(body_model(case, feeds).SerializeToString()).run(None, feeds)[0]
    np.testing.assert_allclose(y, case.expected(feeds)[0], atol=3e-6)
