"""Products of two activations: attention, in one operator or in several."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import input_at
from bitfold.passes.analysis.spaces.symmetry import ALL, CENTER, PERMUTE, ROTATE, SCALE
from bitfold.passes.analysis.spaces.trace import Trace, dims_of


def matmul(node: ir.Node, trace: Trace) -> str | None:
    """MatMul of two activations: queries by keys, or weights (probabilities) by values."""
    a, b = (trace.ids(input_at(node, index)) for index in (0, 1))
    if a is None and b is None:
        return None
    if any(len(dims_of(value) or ()) < 2 for value in node.inputs):
        return "it multiplies vectors"
    if a is not None and b is not None and a.ndim == b.ndim and a.shape[-1] > 1 < b.shape[-2]:
        keys = b.swapaxes(-1, -2)
        if a.shape[-2] > 1 or keys.shape[-2] > 1:
            return "its rows are channels too"
        return _contract(node, trace, a, keys)
    if b is None or b.shape[-2] > 1:
        return "it multiplies channels by another activation"
    if a is not None:
        return "both operands have channels"
    _mixed(node, trace, b, dims_of(input_at(node, 0)))
    return None


def _contract(node: ir.Node, trace: Trace, a: np.ndarray, b: np.ndarray) -> str | None:
    if a.shape[-1] != b.shape[-1]:
        return "how many channels it contracts is not known"
    a, b = np.broadcast_arrays(a, b)
    trace.link(a, b, dual=True)
    heads = tuple(range(a.ndim - 2))
    for ids in (a, b):
        trace.part(ids, heads, node)
        trace.limit(ids, CENTER, node, "contracts it with another activation")
    return None


def _mixed(
    node: ir.Node, trace: Trace, values: np.ndarray, weights: list[int | None] | None
) -> None:
    """Rows of ``values`` [..., L, D] are mixed; heads that have weights of their own stay apart."""
    rank = max(values.ndim, len(weights or ()))
    values = values.reshape((1,) * (rank - values.ndim) + values.shape)
    heads = []
    for axis in range(rank - 2):
        place = axis - rank
        shared = weights is not None and (-place > len(weights) or weights[place] == 1)
        if not shared:
            heads.append(axis)
    trace.part(values, tuple(heads), node)
    trace.limit(values, CENTER, node, "mixes its rows")
    trace.carry(node.outputs[0], values)


def attention(node: ir.Node, trace: Trace) -> str | None:
    """The standard Attention: [B, heads, L, D], or [B, L, heads * D]."""
    given = [input_at(node, index) for index in range(6)]
    found = [_by_head(trace, node, place, given[place]) for place in range(3)]
    if any(trace.ids(v) is not None and f is None for v, f in zip(given, found, strict=False)):
        return "its heads are not known"
    query, key, value = found
    shape = dims_of(node.outputs[0])
    heads = len(query) if query is not None else node.attributes.get_int("q_num_heads", 0)
    if query is not None and key is not None:
        repeated = _repeat(key, heads)
        if repeated is None or repeated.shape != query.shape:
            return "query and key have other heads"
        _contract(node, trace, query[:, None], repeated[:, None])
    elif query is not None or key is not None:
        return "the channels of its query or key are not known"
    if value is not None:
        wide = _repeat(value, heads)
        if wide is None or shape is None:
            return "its heads are not known"
        trace.part(wide, (0,), node)
        trace.limit(wide, CENTER, node, "mixes its rows")
        flat = len(shape) == 3
        trace.carry(node.outputs[0], wide.reshape(1, 1, -1) if flat else wide[None, :, None])
    for place, ids in ((1, key), (2, value)):
        if ids is not None:
            _cache(node, trace, given[place + 3], place, ids)
    return None


def _by_head(trace: Trace, node: ir.Node, place: int, value: ir.Value | None) -> np.ndarray | None:
    """Coordinates [heads, D] of a query, key or value; None where they are not known."""
    ids, dims = trace.ids(value), dims_of(value)
    if ids is None or dims is None:
        return None
    if ids.ndim == 3:
        heads = node.attributes.get_int("kv_num_heads" if place else "q_num_heads", 0)
        known = heads and dims[2] is not None and ids.shape[0] == ids.shape[1] == 1
        return np.broadcast_to(ids[0, 0], (dims[2] or 0,)).reshape(heads, -1) if known else None
    if ids.ndim != 4 or dims[1] is None or dims[3] is None or ids.shape[0] > 1 or ids.shape[2] > 1:
        return None
    return np.broadcast_to(ids[0, :, 0], (dims[1], dims[3]))


def _repeat(ids: np.ndarray, heads: int) -> np.ndarray | None:
    times, rest = divmod(heads, len(ids))
    return None if rest or not times else np.repeat(ids, times, axis=0)


def _cache(node: ir.Node, trace: Trace, past: ir.Value | None, place: int, ids: np.ndarray) -> None:
    """Keys and values that come from an earlier run and go to a later one."""
    kept = node.outputs[place] if len(node.outputs) > place else None
    wide = ids[None, :, None]
    if kept is not None:
        trace.carry(kept, wide)
    if not trace.keep(past, kept) and past is not None:
        trace.limit(ids, ALL, node, f"joins it with {past.name}")


def rotary(node: ir.Node, trace: Trace) -> str | None:
    """RotaryEmbedding: pairs of channels may be scaled together, nothing else."""
    value = input_at(node, 0)
    ids, dims = trace.ids(value), dims_of(value)
    if ids is None or dims is None:
        return None
    heads = node.attributes.get_int("num_heads", 0)
    if len(dims) == 3 and (not heads or dims[2] is None):
        return "its heads are not known"
    full = np.broadcast_to(ids, (*ids.shape[:-1], dims[-1] or ids.shape[-1]))
    by_head = full.reshape(-1, heads, full.shape[-1] // heads) if len(dims) == 3 else full
    width = node.attributes.get_int("rotary_embedding_dim", 0) or by_head.shape[-1]
    turned = by_head[..., :width]
    if turned.shape[-1] % 2:
        return "its pairs are not known"
    if node.attributes.get_int("interleaved", 0):
        trace.link(turned[..., 0::2], turned[..., 1::2], SCALE)
    else:
        first, second = np.split(turned, 2, axis=-1)
        trace.link(first, second, SCALE)
    trace.limit(turned, ROTATE | PERMUTE | CENTER, node, "turns pairs of channels by position")
    trace.carry(node.outputs[0], ids)
    return None
