"""``fuse-attention``: attention, its cache and its rotary embeddings become one operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
import onnx_ir.passes.common as common

from bitfold.passes.core.base import Pass, Promise
from bitfold.passes.core.context import Context
from bitfold.passes.core.targets import ORT_DOMAIN, Target
from bitfold.passes.core.words import counted
from bitfold.passes.lower.cached_attention import CachedAttention
from bitfold.passes.lower.flash_attention import to_flash_attention
from bitfold.passes.lower.flatten_attention import flatten_attention
from bitfold.passes.lower.native_attention import read_split_heads, to_fused_attention
from bitfold.runtime.errors import RecipeError

DEFAULT_POSITIONS = 8192

FLASH = "and never holds all scores"

ASSUMPTION = "positions are numbered from the length of the cache, with padding on the right"
ORT_ASSUMPTION = (
    f"{ASSUMPTION}; after a cache GroupQueryAttention takes several tokens of a batch of 1 only"
)


@dataclass(frozen=True)
class FuseAttention(Pass):
    """Turn each Attention, with its cache and rotary embeddings, into the target's one operator.

    For target ``native`` that is ``bitfold.FusedAttention``, for ``ort`` com.microsoft
    GroupQueryAttention where there is a cache.

    ``native`` takes its operator wherever that means the same, for it is slower nowhere: with it,
    whole models of 4 and 8 bits (a decoder of 135 M parameters, two encoders, a decoder that reads
    an encoder) take 0.72 to 1.0 times as long as with ORT's operators, from 1 query after 128 keys
    to 512 or 1500 queries, with 1 thread and with 2 (AVX-512).

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
        work = CachedAttention(model, context, positions, self.target == "native")
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
