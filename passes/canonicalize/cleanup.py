"""Fold constants, drop what is unused and share what is equal, with onnxscript's optimizer."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript import optimizer
from onnxscript.rewriter import RewritePass, RewriteRule
from onnxscript.rewriter.rules import common as rules

from bitfold.passes.canonicalize import drop_identities

# The optimizer's own rules, with exact ones for neutral elements, and less those that fold
# BatchNormalization: weight math belongs to the pass fold-batch-norm, which says what it did and
# touches one weight at a time.
SIMPLIFICATIONS: tuple[RewriteRule, ...] = (
    *drop_identities.RULES,
    rules.dropout_zero_rule,
    rules.dropout_inference_rule,
    rules.one_reshape_matmul_reshape_rule,
    rules.two_reshapes_matmul_reshape_rule,
    rules.cast_constant_of_shape_rule,
    rules.cast_constant_of_shape_without_value_rule,
    rules.collapse_slice_rule,
    rules.collapse_slice2_rule,
    rules.materialize_reshape_shape_rule,
    rules.successive_relu_rule,
    rules.successive_clip_rule,
    rules.cast_cast_rule,
    rules.no_op_cast_rule,
    rules.no_op_expand_rule,
    rules.reshape_reshape_rule,
    rules.flatten_to_reshape_rule,
    rules.squeeze_reshape_1d_rule,
    rules.no_op_transpose_rule,
    rules.transpose_transpose_rule,
    rules.unsqueeze_unsqueeze_rule,
    rules.normalize_pad_format_conv_rule,
    rules.fuse_pad_into_conv_rule,
    rules.remove_optional_bias_from_conv_rule,
    rules.remove_optional_bias_from_gemm_rule,
)

SHARED_TRANSPOSE = 256
"""A Transpose of a weight of at least this many elements that others read too stays a node."""


def clean_up(model: ir.Model, fold_limit: int) -> None:
    """Optimize ``model`` in place; value names that survive stay as they are.

    Args:
        model: the model; functions are inlined.
        fold_limit: elements; no node with a larger input or output is computed ahead, so a
            weight is never written twice.
    """
    steps: list[ir.passes.InPlacePass] = [
        common.InlinePass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        # Shapes that are computed (Concat of Shape, as exporters write) need data propagation.
        common.ShapeInferencePass(check_type=False, data_prop=True),
    ]
    for step in steps:
        step(model)
    for _ in range(2):
        optimizer.fold_constants_ir(
            model,
            onnx_shape_inference=True,
            input_size_limit=fold_limit,
            output_size_limit=fold_limit,
            should_fold=_should_fold,
        )
        RewritePass(SIMPLIFICATIONS)(model)
        common.IdentityEliminationPass()(model)
        common.RemoveUnusedNodesPass()(model)
    tidy(model)


def tidy(model: ir.Model) -> None:
    """Lift and share constants, share equal nodes, drop unused ones, infer names and shapes."""
    steps: list[ir.passes.InPlacePass] = [
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
        common.NameFixPass(),
        common.ShapeInferencePass(check_type=False, data_prop=True),
    ]
    for step in steps:
        step(model)


def _should_fold(node: ir.Node) -> bool | None:
    """Keep the Transpose of a tied head, however small the model: folding would copy it."""
    source = node.inputs[0] if node.inputs else None
    if node.op_type != "Transpose" or source is None or source.const_value is None:
        return None
    if source.const_value.size >= SHARED_TRANSPOSE and len(source.uses()) > 1:
        return False
    return None
