"""Attention in random models: in one operator or in many, with shared heads, positions, masks."""

from __future__ import annotations

import numpy as np
from support.graph_builder import Builder, Made
from support.random_rows import linear


def attention(b: Builder, x: Made) -> Made:
    """Self-attention of [batch, rows, channels]."""
    heads, shared, size = b.pick(((2, 1, 8), (4, 1, 4), (4, 2, 4), (2, 2, 4)))
    wide, narrow = heads * size, heads // shared * size
    if b.maybe():
        both = linear(b, x, wide + 2 * narrow)
        q, k, v = b.split(both, (wide, narrow, narrow), -1)
    else:
        q, k, v = (linear(b, x, width) for width in (wide, narrow, narrow))
    way = b.pick(("rows", "heads", "parts"))
    if way == "rows":
        mask = _mask(b, x, heads)
        y = b.add(
            "Attention",
            [q, k, v, *([mask] if mask else [])],
            q.shape,
            q_num_heads=heads,
            kv_num_heads=heads // shared,
        )
        return linear(b, y, x.width)
    q, k, v = (_heads(b, each, size) for each in (q, k, v))
    if b.maybe():
        q, k = _normed(b, q), _normed(b, k)
    if b.maybe():
        q, k = _turned(b, q, k)
    mixed = _in_one(b, q, k, v, x, heads) if way == "heads" else _in_parts(b, q, k, v, x, heads)
    y = b.reshape(b.transpose(mixed, 0, 2, 1, 3), *x.shape[:2], wide)
    return linear(b, y, x.width)


def _heads(b: Builder, x: Made, size: int) -> Made:
    """From [batch, rows, channels] to [batch, heads, rows, size]."""
    wide = b.reshape(x, *x.shape[:2], x.width // size, size)
    return b.transpose(wide, 0, 2, 1, 3)


def _normed(b: Builder, x: Made) -> Made:
    gain = np.ones(x.width, np.float32) if b.maybe() else 1 + b.floats(x.width, fan=9)
    return b.add("RMSNormalization", [x, b.constant(gain)], x.shape, axis=-1)


def _turned(b: Builder, q: Made, k: Made) -> tuple[Made, Made]:
    """Rotary positions, for all channels of a head or for half of them, in the operator or not."""
    rows, size = q.shape[2], q.width
    if b.maybe():
        width = b.pick((size, size // 2))
        angles = b.rng.uniform(0, 6, (rows + 2, width // 2)).astype(np.float32)
        tables = [b.constant(np.cos(angles)), b.constant(np.sin(angles))]
        at = np.stack([b.rng.integers(0, rows + 2, rows) for _ in range(q.shape[0])])
        where = b.feed(f"places{len(b.feeds)}", at, at.shape)
        more = {"rotary_embedding_dim": width} if width < size else {}
        made = [
            b.add("RotaryEmbedding", [each, *tables, where], each.shape, **more) for each in (q, k)
        ]
        return made[0], made[1]
    angles = np.tile(b.rng.uniform(0, 6, (rows, size // 2)), 2).astype(np.float32)
    cos, sin = b.constant(np.cos(angles)), b.constant(np.sin(angles))

    def turn(each: Made) -> Made:
        first, second = b.split(each, (size // 2, size // 2), -1)
        swapped = b.joined([b.same("Neg", second), first], -1)
        return b.same("Add", b.same("Mul", each, cos), b.same("Mul", swapped, sin))

    return turn(q), turn(k)


def _mask(b: Builder, x: Made, heads: int) -> Made | None:
    """Nothing, an input, or a bias for each head from a table of positions (T5)."""
    rows = x.shape[1]
    way = b.pick(("none", "input", "table"))
    if way == "none":
        return None
    if way == "input":
        array = b.floats(x.shape[0], 1, rows, rows)
        return b.feed(f"mask{len(b.feeds)}", array, array.shape)
    stored = b.constant(b.floats(7, heads))
    places = b.constant(b.rng.integers(0, 7, (rows, rows)))
    bias = b.add("Gather", [stored, places], (rows, rows, heads), axis=0)
    turned = b.transpose(bias, 2, 0, 1)
    return b.add("Unsqueeze", [turned, b.constant([0])], (1, heads, rows, rows))


def _in_one(b: Builder, q: Made, k: Made, v: Made, x: Made, heads: int) -> Made:
    mask = _mask(b, x, heads)
    given: list[Made | None] = [q, k, v]
    if not b.pick((False, False, True)):
        return b.add("Attention", [*given, *([mask] if mask else [])], q.shape)
    if mask:
        return b.add("Attention", [*given, mask], q.shape, is_causal=0)
    past = (*k.shape[:2], 3, k.shape[3])
    number = len(b.feeds)
    given += [None, *(b.feed(f"past{number}{i}", b.floats(*past), past) for i in "kv")]
    kept = (*k.shape[:2], 3 + k.shape[2], k.shape[3])
    y = b.add("Attention", given, q.shape, [kept, kept])
    for each in b.last(2):
        b.show(each)
    return y


def _in_parts(b: Builder, q: Made, k: Made, v: Made, x: Made, heads: int) -> Made:
    if b.pick((False, False, True)):
        past = (*v.shape[:2], 3, v.shape[3])
        number = len(b.feeds)
        k, v = (
            b.joined([b.feed(f"past{number}{i}", b.floats(*past), past), each], 2)
            for i, each in (("k", k), ("v", v))
        )
        b.show(k)
        b.show(v)
    k, v = _repeated(b, k, heads), _repeated(b, v, heads)
    keys = b.transpose(k, 0, 1, 3, 2)
    scores = b.add("MatMul", [q, keys], (*q.shape[:3], k.shape[2]))
    scores = b.same("Mul", scores, b.constant(np.float32(0.5)))
    mask = _mask(b, x, heads) if k.shape[2] == x.shape[1] else None
    if mask:
        scores = b.same("Add", scores, mask)
    return b.add("MatMul", [b.same("Softmax", scores, axis=-1), v], q.shape)


def _repeated(b: Builder, x: Made, heads: int) -> Made:
    """Each of the shared heads for all that share it."""
    batch, own, rows, size = x.shape
    if own == heads:
        return x
    times = heads // own
    deep = b.add("Unsqueeze", [x, b.constant([2])], (batch, own, 1, rows, size))
    shape = (batch, own, times, rows, size)
    if b.maybe():
        wide = b.add("Expand", [deep, b.constant([1, 1, times, 1, 1])], shape)
    else:
        wide = b.joined([deep] * times, 2)
    return b.reshape(wide, batch, heads, rows, size)
