"""Canonicalize: one opset, no clutter, and each idea of the model as one standard operator."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript.rewriter import RewriteRule

from bitfold.passes.canonicalize import (
    raise_attention,
    raise_clip,
    raise_conv_bias,
    raise_flat_linear,
    raise_gather,
    raise_gelu,
    raise_hard_swish,
    raise_matmul_add,
    raise_norm,
    raise_packed_heads,
    raise_padding,
    raise_products,
    raise_rope,
    raise_silu,
    raise_softmax,
    raise_transpose,
)
from bitfold.passes.canonicalize.absorb_cache import absorb_cache
from bitfold.passes.canonicalize.cleanup import clean_up, simplify, tidy
from bitfold.passes.canonicalize.leftovers import report_leftovers
from bitfold.passes.canonicalize.plain_gemm import plain_gemms
from bitfold.passes.canonicalize.resolve_weights import resolve_weights
from bitfold.passes.canonicalize.rules import apply_rules
from bitfold.passes.canonicalize.split_slices import split_slices
from bitfold.passes.core.base import Pass, Promise
from bitfold.passes.core.context import Context
from bitfold.passes.core.words import counted
from bitfold.passes.opsets.convert import CANONICAL, convert_opset, newest_with_kernels
from bitfold.passes.opsets.widen_floats import widen_floats
from bitfold.runtime.errors import RecipeError

RAISES: tuple[tuple[str, tuple[RewriteRule, ...]], ...] = (
    # An RMSNorm of the centred input sits inside every LayerNorm: the larger pattern goes first.
    ("layer-norm", raise_norm.LAYER_NORM_RULES),
    ("layer-norm", raise_norm.PLAIN_LAYER_NORM_RULES),
    ("layer-norm", raise_norm.BIAS_RULES),
    ("rms-norm", raise_norm.RMS_NORM_RULES),
    ("rms-norm", raise_norm.PLAIN_RMS_NORM_RULES),
    ("gelu", raise_gelu.RULES),
    ("silu", raise_silu.RULES),
    ("softmax", raise_softmax.RULES),
    ("gather", raise_gather.RULES),
    ("rope", raise_rope.RULES),
    ("rope", raise_rope.PARTIAL_RULES),
    ("attention", raise_transpose.RULES),
    ("attention", raise_packed_heads.RULES),
    ("attention", raise_attention.RULES),
    ("clip", raise_clip.RULES),
    ("hard-swish", raise_hard_swish.RULES),
    ("hard-swish", raise_hard_swish.GATED_RULES),
    ("conv-bias", raise_conv_bias.RULES),
    ("padding", raise_padding.RULES),
    ("products", raise_products.RULES),
    ("matmul-add", raise_matmul_add.RULES),
    ("matmul-add", raise_flat_linear.RULES),
)
"""What is raised, in this order: a name for the option ``keep`` and the rules."""

NEWEST_RAISES = ("rms-norm", "rope", "attention")
"""What is raised to operators that came with the passes' opset itself."""


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Bring a model to the form that the other passes expect.

    1. The default domain is converted to opset 23 (21 where the model has an operator that ONNX
       Runtime does not run in a newer one); weights stay memory-mapped.  float16 and bfloat16
       become float32 inside; graph inputs and outputs keep their types.
    2. Functions are inlined, constants folded (never a weight), unused nodes dropped, equal ones
       shared; Constant nodes become initializers, and so do weights behind nodes that only
       arrange them.
    3. Decomposed norms, GELU, softmax, RoPE and attention (with shared K/V heads and cache) become
       RMSNormalization, LayerNormalization or InstanceNormalization, Gelu, Softmax,
       RotaryEmbedding and Attention; SiLU becomes ``x * Sigmoid(x)``; linear layers become Gemm on
       matrices and MatMul + Add elsewhere.  What nearly matched, or stays in parts, is reported.
    4. Around convolutions, limits and gates become Clip, HardSigmoid and HardSwish; padding and
       what is added for each channel go into the operator; a 1x1 Conv of channels-last data or of
       one pixel, and a weight on the left, become products with the weight on the right.

    Names of graph inputs, outputs and surviving values stay.

    Attributes:
        fold_limit: elements; nothing larger is computed ahead or read.
        keep: what is not raised, of rms-norm, layer-norm, gelu, silu, softmax, gather, rope,
            attention, clip, hard-swish, conv-bias, padding, products, matmul-add.

    Raises:
        UnsupportedError: the opset is older than 6, or an operator of it cannot be converted.
        RecipeError: ``keep`` names something else.
    """

    name = "canonicalize"
    promise = Promise.EXACT

    fold_limit: int = 8192
    keep: tuple[str, ...] = ()

    def run(self, model: ir.Model, context: Context) -> bool:
        known = sorted({name for name, _ in RAISES})
        for name in self.keep:
            if name not in known:
                raise RecipeError(
                    f"canonicalize: keep has {name!r}, expected some of {', '.join(known)}"
                )
        entry = context.entry
        before = _census(model)
        opset, reason = newest_with_kernels(model, CANONICAL)
        keep = self.keep
        if reason:
            entry.note(reason)
            keep += NEWEST_RAISES
        found = convert_opset(model, opset)
        if found != opset:
            entry.note(f"opset {found} converted to {opset}")
        widened = widen_floats(model, context.tensor)
        for dtype, count in sorted(widened.items()):
            tensors = counted(count, "constant or weight", "constants and weights")
            entry.note(f"{dtype} widened to FLOAT, with {tensors}")
        clean_up(model, self.fold_limit)
        resolve_weights(model, context, entry)
        factored = plain_gemms(model, context, entry)
        for name, rules in RAISES:
            if name not in keep:
                apply_rules(model, rules, entry)
        if "attention" not in keep:
            common.RemoveUnusedNodesPass()(model)  # they would be other readers of the cache
            absorb_cache(model, entry)
        split_slices(model, entry)
        # The raised operators' shapes are known where their parts' were not.
        simplify(model, self.fold_limit)
        tidy(model)
        report_leftovers(model, entry, keep)
        after = _census(model)
        if before.total() != after.total():
            entry.note(f"{counted(before.total(), 'node')} became {after.total()}")
        return found != opset or bool(widened) or factored or before != after


def _census(model: ir.Model) -> Counter[str]:
    """How many nodes there are of each operator, in the graph and its subgraphs."""
    return Counter(f"{node.domain}::{node.op_type}" for node in model.graph.all_nodes())
