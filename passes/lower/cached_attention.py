"""Attention with a cache and rotary embeddings as FusedAttention or GroupQueryAttention."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import new_initializer
from bitfold.passes.core.targets import ORT_DOMAIN
from bitfold.passes.lower.attention_pattern import (
    Found,
    find_attention,
    heads_of,
    interleaved,
    projections,
    refusal,
)
from bitfold.passes.lower.cache_lengths import native_lengths, ort_lengths
from bitfold.passes.lower.decoder_inputs import Roles, mask_roles, rotary_table
from bitfold.runtime.ops.body import call
from bitfold.runtime.ops.fused_attention import FusedAttention


@dataclass
class CachedAttention:
    """The attentions of one run of the pass, and what they share, made when the first needs it.

    Attributes:
        model: whose attentions they are.
        context: of the run.
        positions: rows of the rotary tables.
        native: the operator is bitfold's FusedAttention rather than ORT's GroupQueryAttention.
        roles: which inputs are which, or why that is not known, by mask and angles.
        tables: cosines and sines, or why there are none, by angles.
        lengths: how many keys count, by the attention mask.
    """

    model: ir.Model
    context: Context
    positions: int
    native: bool
    roles: dict[tuple[ir.Value, ...], Roles | str] = field(default_factory=dict)
    tables: dict[tuple[ir.Value, ...], tuple[ir.Value, ir.Value] | str] = field(
        default_factory=dict
    )
    lengths: dict[ir.Value | None, tuple[ir.Value, ir.Value]] = field(default_factory=dict)

    def fuse(self, attention: ir.Node) -> str:
        """Replace one Attention; returns why not, or an empty string."""
        found = find_attention(self.model, attention)
        if found is None:
            return "it is not between the reshapes of heads with a cache"
        reason = refusal(attention, found, self.native)
        if reason:
            return reason
        angles = (found["cos"], found["sin"]) if "cos" in found else ()
        roles = self._roles(_plain_mask(found["mask"]), angles, found)
        if isinstance(roles, str):
            return roles
        tables: tuple[ir.Value, ...] = ()
        if angles:
            made = self._tables((found["cos"], found["sin"]), roles)
            if isinstance(made, str):
                return made
            tables = made
        self._replace(attention, found, roles, tables)
        return ""

    def _roles(self, mask: ir.Value, angles: tuple[ir.Value, ...], found: Found) -> Roles | str:
        key = (mask, *angles)
        if key not in self.roles:
            caches = frozenset(
                value
                for node in self.model.graph
                if node.op_type == "Attention"
                for value in node.inputs[4:6]
                if value is not None and value.is_graph_input()
            )
            self.roles[key] = mask_roles(self.model, mask, angles, caches)
        return self.roles[key]

    def _tables(
        self, angles: tuple[ir.Value, ir.Value], roles: Roles
    ) -> tuple[ir.Value, ir.Value] | str:
        if angles not in self.tables:
            arrays = rotary_table(self.model, angles, roles, self.positions)
            if isinstance(arrays, str):
                self.tables[angles] = arrays
            else:
                graph = self.model.graph
                self.tables[angles] = (
                    new_initializer(graph, self.context, arrays[0], "bitfold.rotary.cos"),
                    new_initializer(graph, self.context, arrays[1], "bitfold.rotary.sin"),
                )
        return self.tables[angles]

    def _replace(
        self, attention: ir.Node, found: Found, roles: Roles, tables: tuple[ir.Value, ...]
    ) -> None:
        make = self._fused if self.native else self._group_query
        new = make(attention, found, roles, tables)
        out = found["out"].producer()
        assert out is not None  # the pattern matched it
        ir.convenience.replace_nodes_and_values(
            self.model.graph,
            out,
            [out],
            [new],
            [found["out"], found["present_key"], found["present_value"]],
            list(new.outputs),
        )

    def _fused(
        self, attention: ir.Node, found: Found, roles: Roles, tables: tuple[ir.Value, ...]
    ) -> ir.Node:
        """The FusedAttention."""
        heads, kv_heads = heads_of(found["q_heads"]), heads_of(found["k_heads"])
        assert heads is not None  # refusal looked
        assert kv_heads is not None
        projected = projections(found)
        counts = self._counts(roles.keep) if roles.keep is not None else (None, None)
        operator = FusedAttention(
            heads[0],
            kv_heads[0],
            heads[1],
            attention.attributes.get_float("scale", 0.0) or heads[1] ** -0.5,
            packed=projected[1] is None,
            causal=True,
            interleaved=bool(interleaved(found, "q_rotary")),
            softcap=attention.attributes.get_float("softcap", 0.0),
            key=projected[1] is not None,
            past=True,
            lengths=roles.keep is not None,
            total=roles.keep is not None,
            rotary=bool(tables),
            present=True,
        )
        inputs = [*projected, found["past_key"], found["past_value"], *counts]
        inputs += [*(tables or (None, None)), None]
        name = str(attention.name or "")
        return call(self.model, operator.function(), inputs, operator.attributes(), name)

    def _group_query(
        self, attention: ir.Node, found: Found, roles: Roles, tables: tuple[ir.Value, ...]
    ) -> ir.Node:
        """The GroupQueryAttention."""
        heads, kv_heads = heads_of(found["q_heads"]), heads_of(found["k_heads"])
        assert heads is not None  # refusal looked
        assert kv_heads is not None
        caches = (found["past_key"], found["past_value"])
        lengths = self._lengths(roles, found)
        return ir.node(
            "GroupQueryAttention",
            [*projections(found), *caches, *lengths, *tables],
            _attributes(attention, found, heads[0], kv_heads[0]),
            domain=ORT_DOMAIN,
            num_outputs=3,
            name=attention.name,
        )

    def _counts(self, keep: ir.Value) -> tuple[ir.Value, ir.Value]:
        if keep not in self.lengths:
            self.lengths[keep] = native_lengths(self.model.graph, self.context, keep)
        return self.lengths[keep]

    def _lengths(self, roles: Roles, found: Found) -> tuple[ir.Value, ir.Value]:
        if roles.keep not in self.lengths:
            self.lengths[roles.keep] = ort_lengths(
                self.model.graph, self.context, roles.keep, found["q"], found["past_key"]
            )
        return self.lengths[roles.keep]


def _plain_mask(mask: ir.Value) -> ir.Value:
    """The mask before it is broadcast over queries and clamped, which mean nothing here."""
    node = mask.producer()
    while node is not None and node.op_type in ("Expand", "Max", "Identity"):
        source = node.inputs[0]
        if source is None or (node.op_type == "Max" and not _is_clamp(node)):
            break
        mask, node = source, source.producer()
    return mask


def _is_clamp(node: ir.Node) -> bool:
    bound = node.inputs[1].const_value if len(node.inputs) == 2 and node.inputs[1] else None
    return bound is not None and bound.size == 1 and float(bound.numpy().reshape(())) <= -1e30


def _attributes(
    attention: ir.Node, found: Found, heads: int, kv_heads: int
) -> dict[str, int | float]:
    attributes: dict[str, int | float] = {
        "num_heads": heads,
        "kv_num_heads": kv_heads,
        "do_rotary": int("cos" in found),
        "rotary_interleaved": interleaved(found, "q_rotary"),
    }
    for name in ("scale", "softcap"):
        value = attention.attributes.get_float(name, 0.0)
        if value:
            attributes[name] = value
    return attributes
