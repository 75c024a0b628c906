"""The target of a conversion: which one a recipe has, and whether the result keeps to it."""

from __future__ import annotations

import onnx_ir as ir

from bitfold.passes.core.recipe import Recipe
from bitfold.passes.core.report import Report
from bitfold.passes.lower.lower import Lower
from bitfold.runtime.errors import UnsupportedError, VerificationError

TARGET = "bitfold.target"
"""The metadata entry that says what a converted model is for."""

DOMAINS = {
    "ort": frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}),
    "portable": frozenset({"", "ai.onnx", "ai.onnx.ml"}),
}
"""The operators that each target has; ``native`` has those of the op library as well."""


def target_of(recipe: Recipe) -> str | None:
    """The target that the recipe lowers to; None where it does not lower."""
    targets = [item.target for item in recipe if isinstance(item, Lower)]
    return targets[-1] if targets else None


def check_lowered(report: Report) -> None:
    """Raise where the lowering was wrong and was rolled back: what is left is not for a target.

    Raises:
        VerificationError: with the first node that differs.
    """
    for entry in report.rolled_back:
        if entry.name == Lower.name:
            raise VerificationError(
                f"the operators of target {entry.options.get('target', 'native')} do not give the "
                f"quantized model's answers here: {entry.culprit}",
                "nothing was written; try another --target, or --exclude the sites in question",
            )


def record_target(model: ir.Model, target: str | None) -> None:
    """Check that every operator is one of the target's, and say so in the model's metadata.

    Raises:
        UnsupportedError: the model has operators of its own that the target lacks.
    """
    if target is None:
        return
    if target in DOMAINS:
        strangers = [
            node
            for node in model.graph.all_nodes()
            if node.domain not in DOMAINS[target] and node.op_identifier() not in model.functions
        ]
        if strangers:
            first = strangers[0]
            raise UnsupportedError(
                f"target {target} lacks {len(strangers)} of the model's nodes, such as "
                f"{first.name!r} ({first.domain}.{first.op_type})",
                "the model came with them: export it again with standard operators"
                if target == "portable"
                else "target native keeps operators that it does not know",
            )
    model.metadata_props[TARGET] = target
