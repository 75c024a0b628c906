"""``fuse-attention``: attention, its cache and its rotary embeddings become one operator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

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
from bitfold.passes.lower.cache_lengths import native_lengths, ort_lengths
from bitfold.passes.lower.decoder_inputs import Roles, mask_roles, rotary_table
from bitfold.passes.lower.flash_attention import to_flash_attention
from bitfold.passes.lower.flatten_attention import flatten_attention
from bitfold.passes.lower.native_attention import read_split_heads, to_fused_attention
from bitfold.runtime.errors import RecipeError
from bitfold.runtime.ops.body import call
from bitfold.runtime.ops.fused_attention import FusedAttention

DEFAULT_POSITIONS = 8192

ASSUMPTION = "positions are numbered from the length of the cache, with padding on the right"
ORT_ASSUMPTION = (
    f"{ASSUMPTION}; after a cache GroupQueryAttention takes several tokens of a batch of 1 only"
)


@dataclass(frozen=True)
class FuseAttention(Pass):
    """Turn each Attention, with its cache and rotary embeddings, into the target's one operator.

    For target ``native`` that is ``bitfold.FusedAttention``, for ``ort`` com.microsoft
    GroupQueryAttention where there is a cache.

    1. The rotary tables are computed by the graph itself for ``max_positions`` positions and kept
       as constants; the op rotates.
    2. Sequence lengths come from the attention mask, computed once for all layers.
    3. Where query, key and value come from one Split, the op reads the packed projection and the
       Split goes.
    4. Present keys and values may share one buffer with the past ones: the model's metadata says
       ``bitfold.kv_cache = shared-buffer-ok``.
    5. Without a cache, the op reads projections [batch, sequence, heads * head] directly, or keys
       and values that are kept as [batch, heads, sequence, head].  For ``ort`` and ``portable``
       it is the standard Attention.
    6. For ``ort``, where that has no mask and many keys, it becomes com.microsoft
       MultiHeadAttention, which does not hold all scores at once.

    Left alone, with the reason: a mask that is not causal with the padding of the attention mask
    (found by running that part of the graph), angles that are not a function of the position,
    heads of unknown size.

    The promise holds for sequences padded on the right whose positions count from the cache's
    length; the report says so.

    Of these only 5 is done for target ``portable``: the others' ops are not standard.

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
        work = _Work(model, context, positions, self.target == "native")
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
            context.entry.note(ASSUMPTION if self.target == "native" else ORT_ASSUMPTION)
            if work.tables:
                context.entry.note(f"rotary tables hold {counted(positions, 'position')}")
            if self.target == "ort":
                model.graph.opset_imports[ORT_DOMAIN] = 1
            # Without an attention mask the cache's size is its length: there is no room in it.
            if all(isinstance(each, str) or each.keep is not None for each in work.roles.values()):
                model.metadata_props["bitfold.kv_cache"] = "shared-buffer-ok"
        return changed

    def _flatten(self, model: ir.Model, attention: ir.Node) -> tuple[str, str]:
        """Bring an Attention without a cache to its fastest form: why not, and what it does."""
        flat = flatten_attention(model, attention)
        what = "it reads the projections directly"
        if isinstance(flat, str):
            if self.target == "native" and not read_split_heads(model, attention):
                return "", "it reads the query's projection directly and never holds all scores"
            return flat, ""
        if self.target == "native":
            reason = to_fused_attention(model, flat)
            return "", f"{what}, but as the standard op: {reason}" if reason else f"{what} {FLASH}"
        if self.target == "ort" and to_flash_attention(model.graph, flat):
            what = f"{what} {FLASH}"
        return "", what


FLASH = "and never holds all scores"


@dataclass
class _Work:
    """One run: what the layers share, made when the first of them needs it."""

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
        graph = self.model.graph
        if self.native:
            new = self._native(attention, found, roles, tables)
        else:
            heads, kv_heads = heads_of(found["q_heads"]), heads_of(found["k_heads"])
            assert heads is not None  # refusal looked
            assert kv_heads is not None
            seqlens, total = self._lengths(roles, found)
            caches = (found["past_key"], found["past_value"])
            new = ir.node(
                "GroupQueryAttention",
                [*projections(found), *caches, seqlens, total, *tables],
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

    def _native(
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
