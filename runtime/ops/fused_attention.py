"""``FusedAttention``: attention, its cache and its rotary embedding; see the package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from bitfold.runtime.ops.body import Body

INPUTS = ["query", "key", "value", "past_key", "past_value", "lengths", "total", "cos", "sin"]
INPUTS += ["mask"]

LARGEST_HEAD = 256
"""The largest head size that the kernels take."""


@dataclass(frozen=True)
class FusedAttention:
    """One configuration of the operator.

    Attributes:
        num_heads: query heads.
        kv_num_heads: key and value heads; divides ``num_heads``.
        head_size: elements of a head.
        scale: what scores are multiplied by.
        packed: the query input holds query, key and value side by side.
        causal: a query sees no keys after its own.
        interleaved: the rotary embedding turns neighbours rather than halves.
        softcap: bound of the scores; 0 for none.
        key: whether the inputs key and value are there.
        past: whether the past ones are.
        lengths: whether that input is there.
        total: whether that input is there.
        rotary: whether cos and sin are there.
        mask: whether that input is there.
        present: whether the caches are outputs.
    """

    num_heads: int
    kv_num_heads: int
    head_size: int
    scale: float
    packed: bool = False
    causal: bool = False
    interleaved: bool = False
    softcap: float = 0.0
    key: bool = False
    past: bool = False
    lengths: bool = False
    total: bool = False
    rotary: bool = False
    mask: bool = False
    present: bool = False

    def attributes(self) -> dict[str, Any]:
        """The attributes of a node."""
        return {
            "num_heads": self.num_heads,
            "kv_num_heads": self.kv_num_heads,
            "head_size": self.head_size,
            "scale": float(self.scale),
            "packed": int(self.packed),
            "causal": int(self.causal),
            "interleaved": int(self.interleaved),
            "softcap": float(self.softcap),
        }

    def overload(self) -> str:
        """A name for this configuration."""
        parts = [f"h{self.num_heads}_{self.kv_num_heads}_{self.head_size}", f"s{self.scale:.9g}"]
        parts += [f"cap{self.softcap:.9g}"] * (self.softcap != 0)
        names = "packed causal interleaved key past lengths total rotary mask present"
        parts += [name for name in names.split() if getattr(self, name)]
        return "_".join(parts)

    def function(self) -> ir.Function:
        """The function body for this configuration."""
        body = _Body(self)
        return body.function("FusedAttention", self.overload(), body.attention(), self.attributes())

    def received(self) -> ir.Function:
        """A function of the same inputs: how much attention each new key gets, [B, N].

        That is the sum of its probabilities over all heads and queries.
        """
        body = _Body(self)
        name = "FusedAttentionReceived"
        return body.function(name, self.overload(), body.received(), self.attributes())


@dataclass(frozen=True)
class _Parts:
    """What a body works on.

    Attributes:
        query: [B, S, H * D].
        q: [B, H, S, D], turned.
        keys: [B, Hkv, L, D].
        values: likewise.
        seen: which keys a query sees, broadcast to [B, H, S, L].
        mask: what is added to the scores.
        counted: which keys there are at all, [B, 1, 1, L].
        starts: the place of the first new key of each, [B].
        added: the number of new keys, [1].
    """

    query: ir.Value
    q: ir.Value
    keys: ir.Value
    values: ir.Value
    seen: ir.Value
    mask: ir.Value | None
    counted: ir.Value
    starts: ir.Value
    added: ir.Value


class _Body(Body):
    """Writes the body of one configuration."""

    def __init__(self, op: FusedAttention) -> None:
        super().__init__(INPUTS)
        self.of = op

    def attention(self) -> list[ir.Value]:
        """Y, and the present keys and values where they are asked for."""
        part = self._parts()
        y = self._mixed(part)
        merged = self("Reshape", self.transpose(y, 0, 2, 1, 3), self("Shape", part.query))
        return [merged, part.keys, part.values] if self.of.present else [merged]

    def received(self) -> list[ir.Value]:
        """What each new key gets of the attention, [B, N]."""
        part = self._parts()
        _, weights, sums = self._weights(part)
        every = self("ReduceSum", self("Div", weights, sums), self.ints(1, 2), keepdims=0)
        begin = self("Unsqueeze", part.starts, self.ints(1))
        places = self("Add", begin, self("Unsqueeze", self._range(part.added), self.ints(0)))
        return [self("GatherElements", every, places, axis=1)]

    def _parts(self) -> _Parts:
        """What attention is between, and which of it counts."""
        of = self.of
        query, key, value, past_key, past_value, lengths, total, cos, sin, mask = self.inputs
        if of.packed:
            kv = of.kv_num_heads * of.head_size
            sizes = self.ints(of.num_heads * of.head_size, kv, kv)
            query, key, value = self.op_multi_out(
                "Split", [query, sizes], {"axis": -1}, num_outputs=3
            )
        q = self._heads(query, of.num_heads)
        news = [self._heads(x, of.kv_num_heads) for x in (key, value)] if self._has_new else []
        # All int64: N and P of one element, lengths, and where new keys begin, [B].
        added = self("Shape", news[0], start=2, end=3) if news else self.ints(0)
        past = self("Shape", past_key, start=2, end=3) if of.past else self.ints(0)
        if not of.lengths:
            batch = self("Shape", query, start=0, end=1)
            lengths = self("Expand", self("Add", past, added), batch)
        starts = self("Max", self("Sub", lengths, added), self.ints(0))
        queries = self("Shape", query, start=1, end=2)
        positions = self("Add", self("Unsqueeze", starts, self.ints(1)), self._range(queries))
        if of.rotary:
            turn = {"interleaved": int(of.interleaved)}
            q = self("RotaryEmbedding", q, cos, sin, positions, **turn)
            news[0] = self("RotaryEmbedding", news[0], cos, sin, positions, **turn)
        room = self("Max", past, total if of.total else self("Add", past, added))
        room = self("Reshape", room, self.ints(1))
        pasts = [past_key, past_value] if of.past else []
        keys, values = (
            self._placed(pasts[i : i + 1], news[i : i + 1], starts, added, past, room)
            for i in (0, 1)
        )
        # [B, 1, 1, L]: keys that count at all.
        columns = self("Unsqueeze", self._range(room), self.ints(0, 1, 2))
        counted = self("Less", columns, self("Unsqueeze", lengths, self.ints(1, 2, 3)))
        seen = counted
        if of.causal:
            reach = self("Unsqueeze", positions, self.ints(1, 3))
            seen = self("And", seen, self("LessOrEqual", columns, reach))
        kept = mask if of.mask else None
        return _Parts(query, q, keys, values, seen, kept, counted, starts, added)

    @property
    def _has_new(self) -> bool:
        return self.of.packed or self.of.key

    def _heads(self, x: ir.Value, heads: int) -> ir.Value:
        """[B, S, heads * D] to [B, heads, S, D]."""
        split = self("Reshape", x, self.ints(0, 0, heads, self.of.head_size))
        return self.transpose(split, 0, 2, 1, 3)

    def _range(self, count: ir.Value) -> ir.Value:
        scalar = self("Squeeze", count, self.ints(0))
        return self("Range", self._scalar(0), scalar, self._scalar(1))

    def _scalar(self, value: int) -> ir.Value:
        return self("Constant", value_int=value)

    def _placed(
        self,
        past: list[ir.Value],
        new: list[ir.Value],
        starts: ir.Value,
        added: ir.Value,
        size: ir.Value,
        room: ir.Value,
    ) -> ir.Value:
        """The present cache [B, Hkv, L, D]: every slot's row of past, new and a row of zeros."""
        if not self.of.present:
            return (new or past)[0]
        entries = self("Shape", (past + new)[0], start=0, end=2)
        one = self("Concat", entries, self.ints(1, self.of.head_size), axis=0)
        zeros = self("Expand", self.floats(0.0), one)
        rows = self("Concat", *past, *new, zeros, axis=2)
        slots = self("Unsqueeze", self._range(room), self.ints(0))  # [1, L]
        begin = self("Unsqueeze", starts, self.ints(1))  # [B, 1]
        into = self("Sub", slots, begin)
        is_new = self("And", self("GreaterOrEqual", into, self.ints(0)), self("Less", into, added))
        kept = self("Where", self("Less", slots, size), slots, self("Add", size, added))
        source = self("Where", is_new, self("Add", size, into), kept)
        full = self("Concat", entries, room, self.ints(self.of.head_size), axis=0)
        index = self("Expand", self("Unsqueeze", source, self.ints(1, 3)), full)
        return self("GatherElements", rows, index, axis=2)

    def _mixed(self, part: _Parts) -> ir.Value:
        """softmax(q keys^T) values, [B, H, S, D]; heads of one K/V head go through it together."""
        grouped, weights, sums = self._weights(part)
        shape = self("Concat", self("Shape", grouped, start=0, end=3), self.ints(-1), axis=0)
        # Slots of the cache that do not count may hold anything.
        counted = self.transpose(part.counted, 0, 1, 3, 2)
        clean = self("Where", counted, part.values, self.floats(0.0))
        mixed = self("MatMul", self("Reshape", weights, shape), clean)
        return self("Div", self("Reshape", mixed, self("Shape", part.q)), sums)

    def _weights(self, part: _Parts) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Queries [B, Hkv, H / Hkv * S, D]; the weights [B, H, S, L] of keys, and their sums."""
        q, keys, mask = part.q, part.keys, part.mask
        of = self.of
        lead = self("Shape", q, start=0, end=1)
        heads = self.ints(of.kv_num_heads)
        together = self("Concat", lead, heads, self.ints(-1, of.head_size), axis=0)
        grouped = self("Reshape", q, together)
        scores = self("MatMul", grouped, self.transpose(keys, 0, 1, 3, 2))
        apart = self(
            "Concat", self("Shape", q, start=0, end=3), self("Shape", keys, start=2, end=3), axis=0
        )
        scores = self("Mul", self("Reshape", scores, apart), self.floats(of.scale))
        if of.softcap:
            cap = self.floats(of.softcap)
            scores = self("Mul", self("Tanh", self("Div", scores, cap)), cap)
        if mask is not None:
            scores = self("Add", scores, mask)
        scores = self("Where", part.seen, scores, self.floats(float("-inf")))
        most = self("ReduceMax", scores, self.ints(-1), keepdims=1)
        # Where all keys are masked, the weights and their sum are 0, and so is Y.
        most = self("Max", most, self.floats(-3.4028234663852886e38))
        weights = self("Exp", self("Sub", scores, most))
        sums = self("ReduceSum", weights, self.ints(-1), keepdims=1)
        none = self("Equal", sums, self.floats(0.0))
        return grouped, weights, self("Where", none, self.floats(1.0), sums)
