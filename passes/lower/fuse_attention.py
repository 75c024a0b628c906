"""``fuse-attention``: attention with a cache becomes ORT's GroupQueryAttention."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript.rewriter.pattern import ANY_VALUE, Pattern

from bitfold.passes.core.base import Pass, Promise
from bitfold.passes.core.context import Context
from bitfold.passes.fold.rewire import new_initializer
from bitfold.passes.lower.decoder_inputs import Roles, mask_roles, rotary_table
from bitfold.runtime.errors import RecipeError

DOMAIN = "com.microsoft"
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

    Left alone, with the reason: a mask that is not causal with the padding of the attention mask
    (found by running that part of the graph), angles that are not a function of the position,
    heads of unknown size.

    The promise holds for sequences padded on the right whose positions count from the cache's
    length; the report says so.

    Attributes:
        max_positions: rows of the rotary tables; 0 takes the model's metadata
            ``bitfold.max_positions``, or else 8192.

    Raises:
        RecipeError: ``max_positions`` is negative.
    """

    name: ClassVar[str] = "fuse-attention"
    promise: ClassVar[Promise] = Promise.EXACT

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
        changed = False
        for node in list(model.graph):
            if node.op_type != "Attention" or node.domain != "":
                continue
            site = node.name or str(node.outputs[0].name)
            reason = work.fuse(node)
            if reason:
                context.entry.skipped(site, reason)
                continue
            context.entry.changed(site, "attention, cache and rotary embedding are one op")
            changed = True
        if changed:
            context.entry.note(ASSUMPTION)
            context.entry.note(f"rotary tables hold {positions} positions")
            model.graph.opset_imports[DOMAIN] = 1
            model.metadata_props["bitfold.kv_cache"] = "shared-buffer-ok"
            common.RemoveUnusedNodesPass()(model)
        return changed


def _pattern(op: Any, *values: Any, rotary: bool) -> Any:
    q, k, v, mask, past_key, past_value, cos, sin = values
    heads = [
        op.Transpose(
            op.Reshape(each, ANY_VALUE, _allow_other_attributes=True),
            perm=[0, 2, 1, 3],
            _outputs=[f"{name}_heads"],
        )
        for name, each in (("q", q), ("k", k), ("v", v))
    ]
    if rotary:
        for index, name in ((0, "q_rotary"), (1, "k_rotary")):
            heads[index] = op.RotaryEmbedding(
                heads[index], cos, sin, _allow_other_attributes=True, _outputs=[name]
            )
    mixed, _, _ = op.Attention(
        *heads,
        mask,
        past_key,
        past_value,
        _allow_other_attributes=True,
        _outputs=["mixed", "present_key", "present_value"],
    )
    merged = op.Transpose(mixed, perm=[0, 2, 1, 3])
    return op.Reshape(merged, ANY_VALUE, _allow_other_attributes=True, _outputs=["out"])


def _with_rotary(
    op: Any, q: Any, k: Any, v: Any, mask: Any, past_key: Any, past_value: Any, cos: Any, sin: Any
) -> Any:
    return _pattern(op, q, k, v, mask, past_key, past_value, cos, sin, rotary=True)


def _without_rotary(
    op: Any, q: Any, k: Any, v: Any, mask: Any, past_key: Any, past_value: Any
) -> Any:
    return _pattern(op, q, k, v, mask, past_key, past_value, None, None, rotary=False)


PATTERNS = (Pattern(_with_rotary), Pattern(_without_rotary))

Found = dict[str, ir.Value]


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
        found = self._match(attention)
        if found is None:
            return "it is not between the reshapes of heads with a cache"
        reason = _refusal(attention, found)
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

    def _match(self, attention: ir.Node) -> Found | None:
        """The pattern around the node, matched from the Reshape that ends it."""
        root: ir.Node | None = attention
        for op_type in ("Transpose", "Reshape"):
            users = [user for user, _ in root.outputs[0].uses()] if root is not None else []
            root = users[0] if len(users) == 1 and users[0].op_type == op_type else None
        if root is None:
            return None
        for pattern in PATTERNS:
            match = pattern.match(
                self.model, self.model.graph, root, check_nodes_are_removable=False
            )
            if match:
                return dict(match.bindings)
        return None

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
        heads, kv_heads = _heads(found["q_heads"]), _heads(found["k_heads"])
        assert heads is not None  # _refusal looked
        assert kv_heads is not None
        seqlens, total = self._lengths(roles, found)
        new = ir.node(
            "GroupQueryAttention",
            [
                *_projections(found),
                found["past_key"],
                found["past_value"],
                seqlens,
                total,
                *tables,
            ],
            _attributes(attention, found, heads[0], kv_heads[0]),
            domain=DOMAIN,
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


def _refusal(attention: ir.Node, found: Found) -> str:
    sizes = set()
    for name in ("q", "k", "v"):
        heads, shape = _heads(found[f"{name}_heads"]), found[name].shape
        if heads is None:
            return f"the heads of {found[name].name} are not known"
        if shape is None or len(shape) != 3 or shape[2] != heads[0] * heads[1]:
            return f"{found[name].name} is not known as [batch, sequence, heads * head]"
        sizes.add(heads[1])
    if len(sizes) != 1:
        return "the heads of query, key and value differ in size"
    for name in ("q_rotary", "k_rotary"):
        node = found[name].producer() if name in found else None
        if node is not None and node.attributes.get_int("rotary_embedding_dim", 0):
            return "only a part of each head is rotated"
    if len({_interleaved(found, name) for name in ("q_rotary", "k_rotary")}) != 1:
        return "query and key are rotated in different ways"
    if attention.attributes.get_int("is_causal", 0):
        return "it is causal beside its mask"
    if any(output.uses() or output.is_graph_output() for output in attention.outputs[3:]):
        return "its scores are used"
    return ""


def _heads(value: ir.Value) -> tuple[int, int] | None:
    """(heads, head size) of a value [batch, heads, sequence, head], if they are known."""
    if value.shape is None or len(value.shape) != 4:
        return None
    heads, head = value.shape[1], value.shape[3]
    return (heads, head) if isinstance(heads, int) and isinstance(head, int) else None


def _interleaved(found: Found, name: str) -> int:
    node = found[name].producer() if name in found else None
    interleaved: int = 0 if node is None else node.attributes.get_int("interleaved", 0)
    return interleaved


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
        "rotary_interleaved": _interleaved(found, "q_rotary"),
    }
    for name in ("scale", "softcap"):
        value = attention.attributes.get_float(name, 0.0)
        if value:
            attributes[name] = value
    return attributes


def _projections(found: Found) -> list[ir.Value | None]:
    """query, key, value; or the packed projection alone, where one Split makes all three."""
    q, k, v = (found[name] for name in ("q", "k", "v"))
    split = q.producer()
    if split is None or split.op_type != "Split" or list(split.outputs) != [q, k, v]:
        return [q, k, v]
    axis: int = split.attributes.get_int("axis", 0)
    return [split.inputs[0], None, None] if axis in (-1, 2) else [q, k, v]
