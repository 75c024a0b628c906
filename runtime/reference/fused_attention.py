"""The oracle of ``FusedAttention``: NumPy, straight from the specification in ``runtime/ops``."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def rotate(x: Array, cos: Array, sin: Array, positions: Array, interleaved: bool) -> Array:
    """Turn each head by the angles of its position (Su et al., arXiv 2104.09864).

    Args:
        x: [B, heads, S, D].
        cos, sin: [positions, D/2].
        positions: [B, S].
        interleaved: turn neighbours rather than halves.
    """
    c, s = cos[positions][:, None], sin[positions][:, None]
    half = x.shape[-1] // 2
    a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    turned = (a * c - b * s, a * s + b * c)
    if interleaved:
        return np.stack(turned, axis=-1).reshape(x.shape)
    return np.concatenate(turned, axis=-1)


def fused_attention(
    query: Array,
    key: Array | None = None,
    value: Array | None = None,
    past_key: Array | None = None,
    past_value: Array | None = None,
    lengths: Array | None = None,
    total: Array | None = None,
    cos: Array | None = None,
    sin: Array | None = None,
    mask: Array | None = None,
    *,
    num_heads: int,
    kv_num_heads: int,
    head_size: int,
    scale: float,
    packed: int = 0,
    causal: int = 0,
    interleaved: int = 0,
    softcap: float = 0.0,
) -> tuple[Array, Array, Array]:
    """Y f32 [B, S, H * D] and the present keys and values f32 [B, Hkv, L, D]; sums in float64."""
    if packed:
        cuts = np.cumsum([num_heads, kv_num_heads]) * head_size
        query, key, value = np.split(query, cuts, axis=-1)
    batch, queries, _ = query.shape
    none = np.zeros((batch, 0, kv_num_heads * head_size), np.float32)
    key, value = (none, none) if key is None or value is None else (key, value)
    empty = np.zeros((batch, kv_num_heads, 0, head_size), np.float32)
    if past_key is None or past_value is None:
        past_key = past_value = empty
    q, k, v = (
        each.reshape(batch, each.shape[1], each.shape[2] // head_size, head_size).transpose(
            0, 2, 1, 3
        )
        for each in (query, key, value)
    )
    added, past = k.shape[2], past_key.shape[2]
    counts = np.full(batch, past + added) if lengths is None else np.asarray(lengths)
    starts = np.maximum(counts - added, 0)
    positions = starts[:, None] + np.arange(queries)
    if cos is not None and sin is not None:
        q = rotate(q, cos, sin, positions, bool(interleaved))
        k = rotate(k, cos, sin, positions, bool(interleaved))
    room = max(past, past + added if total is None else int(np.asarray(total).reshape(())))
    presents = []
    for old, new in ((past_key, k), (past_value, v)):
        present = np.zeros((batch, kv_num_heads, room, head_size), np.float32)
        present[:, :, :past] = old
        for b, start in enumerate(starts):
            present[b, :, start : start + added] = new[b]
        presents.append(present)
    group = num_heads // kv_num_heads
    keys, values = (np.repeat(each, group, axis=1).astype(np.float64) for each in presents)
    columns = np.arange(room)
    seen: Array = np.broadcast_to(columns < counts[:, None, None], (batch, queries, room))
    if causal:
        seen = seen & (columns <= positions[..., None])
    seen = seen[:, None]
    some = np.asarray(seen.any(axis=2))[..., None]  # what no query sees may even be NaN
    keys, values = np.where(some, keys, 0), np.where(some, values, 0)
    scores = (q.astype(np.float64) @ keys.transpose(0, 1, 3, 2)) * scale
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    if mask is not None:
        scores = scores + mask
    scores = np.where(seen, scores, -np.inf)
    with np.errstate(invalid="ignore"):
        most = np.maximum(scores.max(axis=-1, keepdims=True, initial=-np.inf), np.finfo("f4").min)
        weights = np.exp(scores - most)
        sums = weights.sum(axis=-1, keepdims=True)
        mixed = (weights @ values) / np.where(sums == 0, 1, sums)
    merged = mixed.transpose(0, 2, 1, 3).reshape(batch, queries, num_heads * head_size)
    return merged.astype(np.float32), presents[0], presents[1]
