"""Tell a decoder's inputs apart by what the graph does with them, and make some for probes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bitfold.passes.core.context import Feeds
from bitfold.passes.lower.probe import Part, Probe, cut_out

# (past, new) tokens and how many of the past + new tokens each row keeps, padded on the right.
# More than one new token after a cache only alone: that is all GroupQueryAttention takes.
PROBES: tuple[tuple[int, int, tuple[int, ...]], ...] = (
    (0, 5, (5, 3)),
    (0, 4, (4, 4)),
    (3, 1, (4, 4)),
    (4, 3, (7, 7)),
    (0, 6, (1, 6)),
)


@dataclass(frozen=True)
class Roles:
    """Which graph inputs are which.

    Attributes:
        keep: the attention mask [batch, past + new], 1 keeps and 0 masks; None if there is none.
        positions: token positions [batch, new]; None if the graph computes them.
        caches: past keys and values [batch, kv_heads, past, head].
    """

    keep: ir.Value | None
    positions: ir.Value | None
    caches: frozenset[ir.Value]

    def feeds(self, part: Part, past: int, new: int, kept: tuple[int, ...]) -> Feeds:
        """Inputs of ``part`` for ``new`` tokens after ``past``, a row for each of ``kept``."""
        batch = len(kept)
        feeds: Feeds = {}
        for value in part.inputs:
            name = str(value.name)
            dtype = value.dtype.numpy() if value.dtype is not None else np.dtype(np.int64)
            if value in self.caches:
                heads, head = (value.shape[1], value.shape[3]) if value.shape else (1, 1)
                feeds[name] = np.zeros((batch, _size(heads), past, _size(head)), dtype)
            elif value is self.keep:
                columns = np.arange(past + new)
                feeds[name] = (columns < np.array(kept)[:, None]).astype(dtype)
            elif value is self.positions:
                feeds[name] = np.tile(np.arange(past, past + new), (batch, 1)).astype(dtype)
            else:
                rank = len(value.shape) if value.shape is not None else 2
                feeds[name] = np.zeros((batch, new, 1, 1)[:rank], dtype)
        return feeds


def _size(dim: object) -> int:
    return dim if isinstance(dim, int) else 1


def mask_roles(
    model: ir.Model, mask: ir.Value, angles: tuple[ir.Value, ...], caches: frozenset[ir.Value]
) -> Roles | str:
    """Find the roles under which ``mask`` is causal and keeps what the attention mask keeps.

    Args:
        model: the model.
        mask: an additive mask [batch or 1, 1, new, past + new].
        angles: cosine and sine of the rotary angles, or nothing.
        caches: the graph's past keys and values.

    Returns:
        The roles, or why there are none.
    """
    part = cut_out(model.graph, [mask])
    if isinstance(part, str):
        return part
    turned = cut_out(model.graph, angles) if angles else None
    if isinstance(turned, str):
        return turned
    by_angle = turned.by_value if turned is not None else ()
    probe = Probe(model, part)
    own = [value for value in part.by_value if value not in caches]
    # What the mask alone looks at first; an input of both (positions counted from it) last.
    candidates: list[ir.Value | None] = sorted(own, key=lambda value: value in by_angle)
    for keep in candidates or [None]:
        rest = [v for v in (*own, *by_angle) if v is not keep and v not in caches]
        if len(set(rest)) > 1:
            continue
        roles = Roles(keep, rest[0] if rest else None, caches)
        if _is_causal(probe, roles):
            return roles
    return f"{mask.name} is not the causal mask with what the attention mask keeps"


def _is_causal(probe: Probe, roles: Roles) -> bool:
    for past, new, kept in PROBES:
        if past and new > 1:
            kept = kept[:1]
        found = probe.run(roles.feeds(probe.part, past, new, kept))
        if found is None:
            return False
        columns = np.arange(past + new)
        queries = np.arange(past, past + new)
        if roles.keep is None:
            kept = tuple(past + new for _ in kept)
        lengths = np.array(kept)[:, None]
        # [batch, 1, new, past + new]; rows of queries that are padding themselves do not count.
        seen = (columns <= queries[:, None])[None, None] & (columns < lengths)[:, None, None]
        real = np.broadcast_to((queries < lengths)[:, None, :, None], seen.shape)
        try:
            values = np.broadcast_to(found[0].astype(np.float64), seen.shape)
        except ValueError:
            return False
        if not np.all(values[seen & real] == 0) or not np.all(values[~seen & real] <= -1e4):
            return False
    return True


def rotary_table(
    model: ir.Model, angles: tuple[ir.Value, ir.Value], roles: Roles, positions: int
) -> tuple[np.ndarray, np.ndarray] | str:
    """cos and sin, f32[positions, head/2] each, of every position, or why they are no tables.

    The values are computed by the graph's own nodes, so any scaling of the angles is in them.
    """
    part = cut_out(model.graph, angles)
    if isinstance(part, str):
        return part
    known = {roles.keep, roles.positions, *roles.caches}
    strangers = [value.name for value in part.by_value if value not in known]
    if strangers:
        return f"the rotary angles depend on {strangers[0]}"
    probe = Probe(model, part)
    found = probe.run(roles.feeds(part, 0, positions, (positions,)))
    if found is None or any(each.ndim != 3 or each.shape[:2] != (1, positions) for each in found):
        return "the rotary angles are not [batch, sequence, head/2]"
    tables = [each[0].astype(np.float32) for each in found]
    for past, new, kept in ((3, 4, (7, 7)), (5, 1, (6,))):
        if past + new > positions:
            continue
        again = probe.run(roles.feeds(part, past, new, kept))
        for table, values in zip(tables, again or [], strict=False):
            if not np.allclose(values, table[past : past + new][None], rtol=0, atol=1e-6):
                return "the rotary angles are not a function of the position alone"
        if again is None:
            return "the rotary angles cannot be computed after a cache"
    return tables[0], tables[1]
