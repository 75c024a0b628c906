"""``fuse-attention``: attention with a cache becomes ORT's GroupQueryAttention."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from bitfold.passes.core.base import Pass, Promise
from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import new_initializer
from bitfold.passes.core.targets import ORT_DOMAIN, Target
from bitfold.passes.core.words import counted
from bitfold.passes.lower.attention_pattern import (
    Found,
    find_attention,
    heads_of,
    interleaved,
    projections,
    refusal,
)
from bitfold.passes.lower.decoder_inputs import Roles, mask_roles, rotary_table
from bitfold.passes.lower.flash_attention import to_flash_attention
from bitfold.passes.lower.flatten_attention import flatten_attention
from bitfold.runtime.errors import RecipeError

DEFAULT_POSITIONS = 8192

ASSUMPTION = (
    "GroupQueryAttention numbers positions from the length of the cache and expects padding on "
    "the right; it takes several new tokens after a cache for a batch of 1 only"
)


@dataclass(frozen=True)
class FuseAttention(Pass):
    """Turn each cached Attention and its rotary embeddings into com.microsoft GroupQueryAttention.

    1. The rotary tables are computed by the graph itself for ``max_positions`` positions and kept
       as constants; the op rotates.
    2. Sequence lengths come from the attention mask, computed once for all layers.
    3. Where query, key and value come from one Split, the op reads the packed projection and the
       Split goes.
    4. Present keys and values may share one buffer with the past ones: the model's metadata says
       ``bitfold.kv_cache = shared-buffer-ok``.
    5. An Attention without a cache stays the standard op, in the form that reads projections
       [batch, sequence, heads * head] directly.
    6. Where it has no mask and many keys, it becomes com.microsoft MultiHeadAttention, which does
       not hold all scores at once.

    Left alone, with the reason: a mask that is not causal with the padding of the attention mask
    (found by running that part of the graph), angles that are not a function of the position,
    heads of unknown size.

    The promise holds for sequences padded on the right whose positions count from the cache's
    length; the report says so.

    Of these only 5 is done for target ``portable``: the others' ops are ORT's own.

    Attributes:
        target: what the model must run on.
        max_positions: rows of the rotary tables; 0 takes the model's metadata
            ``bitfold.max_positions``, or else 8192.

    Raises:
        RecipeError: ``max_positions`` is negative.
    """

    name: ClassVar[str] = "fuse-attention"
    promise: ClassVar[Promise] = Promise.EXACT

    target: Target = "native"
    max_positions: int = 0

    def run(self, model: ir.Model, context: Context) -> bool:
        if self.max_positions < 0:
            raise RecipeError(
                f"fuse-attention: expected max_positions >= 0, found {self.max_positions}"
            )
        positions = self.max_positions or int(
            model.metadata_props.get("bitfold.max_positions", DEFAULT_POSITIONS)
        )
        work = _Work(model, context, positions)
        changed = fused = False
        for node in list(model.graph):
            if node.op_type != "Attention" or node.domain != "":
                continue
            site = node.name or str(node.outputs[0].name)
            cached = len(node.inputs) > 5
            if cached and self.target == "portable":
                context.entry.skipped(site, "GroupQueryAttention is no standard op")
                continue
            what = "attention, cache and rotary embedding are one op"
            if cached:
                reason = work.fuse(node)
            else:
                reason, what = self._flatten(model, node)
            if reason:
                context.entry.skipped(site, reason)
                continue
            context.entry.changed(site, what)
            changed, fused = True, fused or cached
        if changed:
            common.RemoveUnusedNodesPass()(model)
        if fused:
            context.entry.note(ASSUMPTION)
            if work.tables:
                context.entry.note(f"rotary tables hold {counted(positions, 'position')}")
            model.graph.opset_imports[ORT_DOMAIN] = 1
            model.metadata_props["bitfold.kv_cache"] = "shared-buffer-ok"
        return changed

    def _flatten(self, model: ir.Model, attention: ir.Node) -> tuple[str, str]:
        """Bring an Attention without a cache to its fastest form: why not, and what it does."""
        flat = flatten_attention(model, attention)
        if isinstance(flat, str):
            return flat, ""
        what = "it reads the projections directly"
        if self.target != "portable" and to_flash_attention(model.graph, flat):
            what += " and never holds all scores"
        return "", what


@dataclass
class _Work:
    """One run: what the layers share, made when the first of them needs it."""

    model: ir.Model
    context: Context
    positions: int
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
        reason = refusal(attention, found)
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
        graph = self.model.graph
        heads, kv_heads = heads_of(found["q_heads"]), heads_of(found["k_heads"])
        assert heads is not None  # refusal looked
        assert kv_heads is not None
        seqlens, total = self._lengths(roles, found)
        new = ir.node(
            "GroupQueryAttention",
            [
                *projections(found),
                found["past_key"],
                found["past_value"],
                seqlens,
                total,
                *tables,
            ],
            _attributes(attention, found, heads[0], kv_heads[0]),
            domain=ORT_DOMAIN,
            num_outputs=3,
            name=attention.name,
        )
        out = found["out"].producer()
        assert out is not None  # the pattern matched it
        ir.convenience.replace_nodes_and_values(
            graph,
            out,
            [out],
            [new],
            [found["out"], found["present_key"], found["present_value"]],
            list(new.outputs),
        )

    def _lengths(self, roles: Roles, found: Found) -> tuple[ir.Value, ir.Value]:
        """seqlens_k i32[batch], each row's last position, and the total length i32[]."""
        if roles.keep in self.lengths:
            return self.lengths[roles.keep]
        graph = self.model.graph
        tape = ir.tape.Tape()
        one = self._constant("bitfold.one", np.array([1], np.int64))
        if roles.keep is not None:
            kept: ir.Value = roles.keep
            if kept.dtype != ir.DataType.INT64:
                kept = tape.op("Cast", [kept], {"to": int(ir.DataType.INT64)})
            summed = tape.op("ReduceSum", [kept, one], {"keepdims": 0})
            last = tape.op("Sub", [summed, one])
            size = tape.op("Shape", [roles.keep], {"start": 1, "end": 2})
        else:
            past = tape.op("Shape", [found["past_key"]], {"start": 2, "end": 3})
            new = tape.op("Shape", [found["q"]], {"start": 1, "end": 2})
            size = tape.op("Add", [past, new])
            batch = tape.op("Shape", [found["past_key"]], {"start": 0, "end": 1})
            last = tape.op("Expand", [tape.op("Sub", [size, one]), batch])
        seqlens = tape.op("Cast", [last], {"to": int(ir.DataType.INT32)})
        zero = self._constant("bitfold.zero", np.array([0], np.int64))
        total = tape.op("Cast", [tape.op("Squeeze", [size, zero])], {"to": int(ir.DataType.INT32)})
        seqlens.name, total.name = "bitfold.seqlens_k", "bitfold.total_sequence_length"
        nodes = list(tape.nodes)
        for number, node in enumerate(nodes):
            node.name = f"bitfold/lengths/{node.op_type}_{number}"
            if node.outputs[0].name is None:
                node.outputs[0].name = f"{node.name}_output_0"
        if roles.keep is not None:
            graph.insert_before(graph[0], nodes)
        else:
            producer = found["q"].producer()
            assert producer is not None  # a projection
            graph.insert_after(producer, nodes)
        self.lengths[roles.keep] = (seqlens, total)
        return seqlens, total

    def _constant(self, name: str, array: np.ndarray) -> ir.Value:
        return new_initializer(self.model.graph, self.context, array, name)


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
