"""Checks of the attention kernels of one ISA; run as a process, as those of ``kernel_checks``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import onnxruntime as ort
from support.attention_nodes import OUTPUTS, AttentionCase, attention_session
from support.guard_pages import BEHIND, guarded_copy

TOLERANCE = 2e-6
"""Largest error of an output: values and their means are of the order of 1, scores of that of
``scale`` or less, and exp makes their rounding errors relative ones of the weights."""

MODELS = [
    AttentionCase((9, 3, 64), 40, past=0, packed=True, causal=True, rotary=True),
    AttentionCase((9, 3, 64), 1, past=300, packed=True, causal=True, rotary=True),
    AttentionCase((9, 3, 64), 5, past=270, packed=True, causal=True, rotary=True),
    AttentionCase((12, 12, 32), 50, batch=3, mask="b1qk"),
    AttentionCase((6, 6, 64), 300, added=530),
    AttentionCase((6, 6, 64), 3, added=0, past=600),
    AttentionCase((8, 2, 16), 30, past=10, causal=True, rotary=True, interleaved=True),
    AttentionCase((4, 1, 128), 20, past=33, causal=True, softcap=2.0),
]
"""What decoders and encoders ask for."""


def wrong(case: AttentionCase, found: list[np.ndarray], expected: list[np.ndarray]) -> str:
    """What is wrong with a node's outputs, or an empty string."""
    for name, y, e in zip(OUTPUTS, found, expected, strict=False):
        if y.shape != e.shape:
            return f"{case}: {name} is {y.shape}, expected {e.shape}"
        if (np.isnan(y) != np.isnan(e)).any():
            return f"{case}: {name} has NaN where none is expected, or none where one is"
        error = np.nanmax(np.abs(y - e), initial=0)
        limit = TOLERANCE * max(1, case.scale) if name == "Y" or case.rotary else 0
        if not error <= limit:
            return f"{case}: {name} is off by {error:.3g}"
    return ""


def check(case: AttentionCase, threads: int = 2) -> str:
    """One case against the oracle."""
    feeds = case.feeds()
    found = attention_session(case, feeds, threads).run(None, feeds)
    return wrong(case, found, case.expected(feeds))


def models() -> Iterator[str]:
    """What real models ask for, caches with room to spare, and batches of unequal lengths."""
    for case in MODELS:
        yield check(case)
        if case.past is not None and case.new_keys:
            yield check(replace(case, spare=37, seed=1))
            yield check(replace(case, spare=3, batch=3, short=2, seed=2))
        if not case.past:
            yield check(replace(case, batch=3, short=7))
            yield check(replace(case, batch=2, short=1000))  # the second entry has no keys at all


def odd_shapes() -> Iterator[str]:
    """Every head size, numbers of queries, of keys and of heads in a group."""
    for head in [*range(1, 36), 48, 63, 80, 100, 127, 128, 200, 255, 256]:
        rotary = head % 2 == 0
        plain = AttentionCase(
            (4, 2, head), 7, past=21, causal=True, rotary=rotary, scale=head**-0.5
        )
        yield check(plain)
        yield check(replace(plain, queries=1, interleaved=rotary))
    for size in [*range(1, 40), 255, 256, 257, 511, 512, 513]:
        yield check(AttentionCase((2, 2, 24), 5, added=size))
        yield check(AttentionCase((3, 1, 24), 1, added=0, past=size))
        yield check(AttentionCase((3, 1, 24), size, past=3, causal=True))
    for group in range(1, 14):
        yield check(AttentionCase((2 * group, 2, 20), 9, past=4, causal=True, packed=True))
        yield check(AttentionCase((2 * group, 2, 20), 1, past=280, causal=True, packed=True))
    yield check(AttentionCase((2, 2, 8), 0, added=5))
    yield check(AttentionCase((2, 2, 8), 5, added=5, batch=0))
    yield check(AttentionCase((4, 4, 40), 70, batch=20, packed=True, causal=True))


def masks() -> Iterator[str]:
    """Every way to broadcast a mask; rows of it that leave nothing give zeros."""
    case = AttentionCase((6, 2, 24), 30, added=41, batch=2)
    shapes = ["k", "1", "1k", "q1", "qk", "11k", "1qk", "h1k", "hqk", "bhq1"]
    shapes += [b + rest for b in "1b" for rest in ("11k", "1qk", "h1k", "hqk")]
    for mask in shapes:
        yield check(replace(case, mask=mask))
        yield check(replace(case, mask=mask, queries=1, softcap=3.0))
        yield check(replace(case, mask=mask, added=None, queries=30, causal=True, short=4))
    feeds = replace(case, mask="b1qk").feeds()
    feeds["mask"][1, 0, 7] = -np.inf
    feeds["mask"][1, 0, 8] = -3.4e38
    found = attention_session(replace(case, mask="b1qk"), feeds).run(None, feeds)
    if found[0][1, 7].any():
        yield "a query that sees nothing gives something"
    yield wrong(case, found, case.expected(feeds))


def extremes() -> Iterator[str]:
    """Large scores do not overflow; NaN and infinity spoil the queries that meet them."""
    for case in (
        AttentionCase((3, 1, 32), 20, added=290, scale=20.0),
        AttentionCase((3, 1, 32), 1, added=0, past=290, scale=20.0),
    ):
        feeds = case.feeds()
        yield wrong(case, attention_session(case, feeds).run(None, feeds), case.expected(feeds))
        broken = {name: array.copy() for name, array in feeds.items()}
        broken["query"][0, 0, 3] = np.nan
        y = attention_session(case, feeds).run(None, broken)[0].reshape(case.queries, 3, 32)
        if not np.isnan(y[0, 0]).all() or np.isnan(y[1:]).any() or np.isnan(y[0, 1:]).any():
            yield f"{case}: a NaN in one query head"
        keys = "key" if case.new_keys else "past_key"
        for bad in (np.nan, np.inf):
            broken = {name: array.copy() for name, array in feeds.items()}
            broken[keys].reshape(-1)[270 * 32 + 1] = bad
            broken["query"][..., 1] = 1
            y = attention_session(case, feeds).run(None, broken)[0]
            if not np.isnan(y.reshape(-1, 3, 32)[:, 0]).all():
                yield f"{case}: {bad} in a key"
    # What a cache holds behind the keys that count is never looked at.
    case = AttentionCase((6, 2, 32), 1, past=20, spare=50, causal=True)
    for queries in (1, 9):
        each = replace(case, queries=queries)
        feeds = each.feeds()
        for name in ("past_key", "past_value"):
            feeds[name][:, :, 20:] = np.nan
        y = attention_session(each, feeds).run(None, feeds)[0]
        if np.isnan(y).any() or np.abs(y - each.expected(feeds)[0]).max() > TOLERANCE:
            yield f"{each}: NaN behind the keys that count"


def shared_cache() -> Iterator[str]:
    """One buffer as past and present: the same bits, and nothing else is written."""
    for case in MODELS:
        if case.past is None or not case.new_keys:
            continue
        case = replace(case, spare=case.new_keys + 19)
        feeds = case.feeds()
        run = attention_session(case, feeds, 2)
        expected = run.run(None, feeds)
        bound, kept = run.io_binding(), {}
        for name, array in feeds.items():
            kept[name] = ort.OrtValue.ortvalue_from_numpy(array)
            bound.bind_ortvalue_input(name, kept[name])
        bound.bind_output("Y", "cpu")
        for name in ("key", "value"):
            bound.bind_ortvalue_output(f"present_{name}", kept[f"past_{name}"])
        run.run_with_iobinding(bound)
        y = next(each for each in bound.get_outputs() if len(each.shape()) == 3)
        if not np.array_equal(y.numpy(), expected[0]):
            yield f"{case}: Y differs"
        for name, e in (("past_key", expected[1]), ("past_value", expected[2])):
            if not np.array_equal(kept[name].numpy(), e):
                yield f"{case}: {name} differs"


def threads() -> Iterator[str]:
    """The same bits for any number of threads, and from several callers at once."""
    for case in [
        *MODELS,
        AttentionCase((9, 3, 64), 200, past=100, packed=True, causal=True, rotary=True),
        AttentionCase((9, 3, 64), 1, past=3000, packed=True, causal=True, rotary=True),
        AttentionCase((12, 12, 32), 128, batch=4, mask="b11k"),
    ]:
        feeds = case.feeds()
        runs = [attention_session(case, feeds, count) for count in (1, 2, 3)]

        def call(run: ort.InferenceSession, feeds: dict[str, np.ndarray] = feeds) -> bytes:
            return b"".join(each.tobytes() for each in run.run(None, feeds))

        first, *others = [call(run) for run in runs]
        if any(other != first for other in others):
            yield f"{case}: bits depend on the number of threads"
        with ThreadPoolExecutor(4) as pool:
            if any(each != first for each in pool.map(call, [runs[1]] * 8)):
                yield f"{case}: concurrent calls disturb each other"


def attention_guard_pages() -> Iterator[str]:
    """Inputs and outputs that end, or begin, at a page that must not be touched."""
    cases = [*MODELS, replace(MODELS[0], spare=5), replace(MODELS[3], mask="b11k", short=3)]
    cases += [
        AttentionCase((3, 1, head), queries, past=past, causal=True, mask="qk")
        for head in (5, 19, 40)
        for queries in (1, 13)
        for past in (0, 18)
    ]
    for case in cases:
        feeds = case.feeds()
        expected = case.expected(feeds)
        run = attention_session(case, feeds)
        for side in BEHIND:
            bound = run.io_binding()
            for name, array in feeds.items():
                copy = guarded_copy(array, side)
                bound.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(copy))
            outputs = [guarded_copy(np.zeros_like(e), side) for e in expected]
            for name, y in zip(OUTPUTS, outputs, strict=False):
                bound.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(y))
            run.run_with_iobinding(bound)
            yield wrong(case, outputs, expected)


CHECKS: dict[str, Callable[[], Iterator[str]]] = {
    each.__name__: each
    for each in (
        models,
        odd_shapes,
        masks,
        extremes,
        shared_cache,
        threads,
        attention_guard_pages,
    )
}
