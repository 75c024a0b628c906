"""``FusedAttention`` nodes that are refused: bad attributes, inputs that do not go together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.attention_nodes import AttentionCase, attention_model
from support.lowbit_nodes import session

CASE = AttentionCase((6, 2, 16), 3, past=9, causal=True, rotary=True, spare=5, batch=2)
PLAIN = AttentionCase((6, 2, 16), 3, added=7, batch=2, mask="b1qk")
HUGE = 1 << 62


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 0}, "'num_heads': expected 1 to 65536, found 0"),
        ({"num_heads": HUGE}, "'num_heads': expected 1 to"),
        ({"kv_num_heads": -1}, "'kv_num_heads': expected 1 to"),
        ({"kv_num_heads": 4}, "'kv_num_heads': expected a divisor of num_heads = 6, found 4"),
        ({"head_size": 0}, "'head_size': expected 1 to 256, found 0"),
        ({"head_size": 257}, "'head_size': expected 1 to 256, found 257"),
        ({"head_size": 15}, "'head_size': expected an even number to rotate, found 15"),
        ({"packed": 2}, "'packed': expected 0 to 1, found 2"),
        ({"packed": 1}, "key: expected none beside attribute 'packed'"),
        ({"causal": -1}, "'causal': expected 0 to 1, found -1"),
        ({"interleaved": 7}, "'interleaved': expected 0 to 1, found 7"),
        ({"scale": float("nan")}, "'scale': expected a finite number"),
        ({"softcap": -1.0}, "'softcap': expected a number from 0 on"),
        ({"softcap": 2}, "'softcap': expected a float, found another type"),
        ({"scale": 1}, "expected a float attribute 'scale', found none"),
        ({"causal": 1.0}, "expected an int attribute 'causal', found none"),
    ],
)
def test_bad_attributes(change: dict[str, Any], message: str) -> None:
    """Refused when the session is made."""
    with pytest.raises(Exception, match=message):
        session(attention_model(CASE, CASE.feeds(), change))


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("value", "expected both key and value, or neither"),
        ("past_key", "expected both past_key and past_value, or neither"),
        ("sin", "expected both cos and sin, or neither"),
    ],
)
def test_half_a_pair(missing: str, message: str) -> None:
    """Refused when the session is made."""
    feeds = CASE.feeds()
    del feeds[missing]
    with pytest.raises(Exception, match=message):
        session(attention_model(CASE, feeds))


def floats(*shape: int) -> np.ndarray:
    """Zeros."""
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("case", "change", "message"),
    [
        (CASE, {"query": floats(2, 3, 95)}, r"query: expected shape \[-1, -1, 96\]"),
        (CASE, {"query": floats(6, 96)}, "query: expected float32 of 3 axes"),
        (CASE, {"query": floats(2, 4, 96)}, "'causal': expected a new key for each of 4 queries"),
        (CASE, {"key": floats(1, 3, 32)}, r"key: expected shape \[2, -1, 32\]"),
        (CASE, {"value": floats(2, 2, 32)}, r"value: expected shape \[2, 3, 32\]"),
        (CASE, {"past_key": floats(2, 2, 9, 15)}, r"past_key: expected shape \[2, 2, -1, 16\]"),
        (CASE, {"past_value": floats(2, 2, 8, 16)}, r"past_value: expected shape \[2, 2, 14, 16\]"),
        (CASE, {"lengths": np.array([12])}, r"lengths: expected shape \[2\], found \[1\]"),
        (CASE, {"lengths": np.array([12, 18])}, "lengths: expected at most 14 past and 3 new"),
        (CASE, {"lengths": np.array([-1, 12])}, "lengths: expected at most .*, found -1"),
        (CASE, {"lengths": np.array([HUGE, 12])}, "lengths: expected at most"),
        (CASE, {"lengths": np.array([15, 12])}, "in room for 14, found 15"),
        (CASE, {"total": np.array([-3])}, "total: expected 0 to 17, found -3"),
        (CASE, {"total": np.array([HUGE])}, "total: expected 0 to 17, found"),
        (CASE, {"total": np.array([3, 4])}, r"total: expected one int64, found \[2\]"),
        (CASE, {"cos": floats(12, 7), "sin": floats(12, 7)}, r"cos: expected shape \[-1, 8\]"),
        (
            CASE,
            {"cos": floats(11, 8), "sin": floats(11, 8)},
            "cos: expected 12 positions, found 11",
        ),
        (CASE, {"sin": floats(11, 8)}, r"sin: expected shape \[12, 8\]"),
        (
            PLAIN,
            {"mask": floats(2, 1, 3, 6)},
            r"mask: expected float32 that is broadcast to \[2, 6",
        ),
        (PLAIN, {"mask": floats(3, 1, 3, 7)}, "mask: expected float32 that is broadcast to"),
    ],
)
def test_inputs_that_do_not_fit(
    case: AttentionCase, change: dict[str, np.ndarray], message: str
) -> None:
    """Refused by a run, which leaves the session usable."""
    feeds = case.feeds()
    run = session(attention_model(case, feeds))
    broken = {**feeds, **change}
    if any(array.ndim != feeds[name].ndim for name, array in change.items()):
        run = session(attention_model(case, broken))  # ORT itself looks at ranks
    with pytest.raises(Exception, match=message):
        run.run(None, broken)
    if all(array.ndim == feeds[name].ndim for name, array in change.items()):
        run.run(None, feeds)


def test_new_and_past_keys_need_outputs() -> None:
    """Without them there is no place to put both together."""
    case = replace(CASE, rotary=False, spare=0)
    model = attention_model(case, case.feeds())
    del model.graph.node[0].output[1:]
    del model.graph.output[1:]
    with pytest.raises(Exception, match="expected outputs for new keys after past ones"):
        session(model).run(None, case.feeds())
