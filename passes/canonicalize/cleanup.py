"""Fold constants, drop what is unused and share what is equal, with onnxscript's optimizer."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript.rewriter import RewritePass, RewriteRule
from onnxscript.rewriter.rules import common as rules

from bitfold.passes.canonicalize import drop_identities, reshape_targets
from bitfold.passes.canonicalize.at_roots import at_roots
from bitfold.passes.canonicalize.fold_constants import fold_constants
from bitfold.passes.canonicalize.fold_shapes import fold_shapes
from bitfold.passes.canonicalize.pin_outputs import pinned_outputs
from bitfold.passes.opsets.infer_shapes import infer_shapes, quiet

# The optimizer's own rules, with exact ones for neutral elements and for
# targets of Reshape (which hold among no elements too), and less those that fold
# BatchNormalization: weight math belongs to the pass fold-batch-norm, which says what it did and
# touches one weight at a time.
SIMPLIFICATIONS: tuple[RewriteRule, ...] = (
    *drop_identities.RULES,
    *reshape_targets.RULES,
    rules.dropout_zero_rule,
    rules.dropout_inference_rule,
    rules.one_reshape_matmul_reshape_rule,
    rules.two_reshapes_matmul_reshape_rule,
    rules.cast_constant_of_shape_rule,
    rules.cast_constant_of_shape_without_value_rule,
    rules.collapse_slice_rule,
    rules.collapse_slice2_rule,
    rules.successive_relu_rule,
    rules.successive_clip_rule,
    rules.cast_cast_rule,
    rules.no_op_cast_rule,
    rules.no_op_expand_rule,
    rules.reshape_reshape_rule,
    rules.squeeze_reshape_1d_rule,
    rules.no_op_transpose_rule,
    rules.transpose_transpose_rule,
    rules.unsqueeze_unsqueeze_rule,
    rules.normalize_pad_format_conv_rule,
    rules.fuse_pad_into_conv_rule,
    rules.remove_optional_bias_from_conv_rule,
    rules.remove_optional_bias_from_gemm_rule,
)

ROUNDS = 3
"""What one round of simplifying makes possible, the next ones do."""


def clean_up(model: ir.Model, fold_limit: int) -> None:
    """Optimize ``model`` in place; value names that survive stay as they are.

    Args:
        model: the model; its functions, but for those of bitfold's operators, are inlined.
        fold_limit: elements; no node with a larger input or output is computed ahead, so a
            weight is never written twice.
    """
    with quiet():
        _clean_up(model, fold_limit)
    tidy(model)


def _clean_up(model: ir.Model, fold_limit: int) -> None:
    steps: list[ir.passes.InPlacePass] = [
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
    ]
    for step in steps:
        step(model)
    infer_shapes(model)
    simplify(model, fold_limit)


def simplify(model: ir.Model, fold_limit: int) -> None:
    """Fold shapes and constants and drop what changes nothing, until that ends (or thrice)."""
    with quiet():
        for _ in range(ROUNDS):
            before = len(model.graph)
            with pinned_outputs(model):
                fold_shapes(model)
                fold_constants(model, fold_limit)
                RewritePass(at_roots(SIMPLIFICATIONS))(model)
                common.IdentityEliminationPass()(model)
                common.RemoveUnusedNodesPass()(model)
            if len(model.graph) == before:
                break


def tidy(model: ir.Model) -> None:
    """Lift and share constants, share equal nodes, drop unused ones, infer names and shapes."""
    sharing: list[ir.passes.InPlacePass] = [
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
    ]
    unused: list[ir.passes.InPlacePass] = [
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
        common.NameFixPass(),
    ]
    with quiet():
        with pinned_outputs(model):
            for step in sharing:
                step(model)
        for step in unused:
            step(model)
    infer_shapes(model)
