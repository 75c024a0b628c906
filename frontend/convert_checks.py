"""What a conversion refuses: a model that is low-bit already, or has nothing to quantize."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from bitfold.passes.core.recipe import Recipe
from bitfold.passes.core.report import Report
from bitfold.passes.core.words import counted
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.errors import UnsupportedError
from bitfold.runtime.ops import DOMAIN


def check_float(model: ir.Model) -> None:
    """Raise where the model has been through this before: what it lost does not come back.

    Raises:
        UnsupportedError: it has low-bit operators.
    """
    done = [
        node
        for node in model.graph.all_nodes()
        if node.domain == DOMAIN and node.op_type.startswith("LowBit")
    ]
    if done:
        raise UnsupportedError(
            f"the model is already low-bit: it has {counted(len(done), 'node')} like "
            f"{done[0].name!r} ({done[0].op_type})",
            "convert the float model that it was made from",
        )


def check_quantized(report: Report, recipe: Recipe) -> None:
    """Raise where the recipe quantizes but no site was quantized.

    Raises:
        UnsupportedError: that is so; the most frequent reasons.
    """
    entries = [entry for entry in report.passes if entry.name == Quantize.name]
    if any(entry.status != "unchanged" for entry in entries):
        return
    skips = [skip.text for entry in entries for skip in entry.skips]
    counted = Counter(skips).most_common(3)
    reasons = "; ".join(f"{reason} ({count})" for reason, count in counted)
    raise UnsupportedError(
        f"nothing was quantized; sites skipped: {len(skips)}, for these reasons: {reasons}"
        if skips
        else "nothing was quantized: the model has no matrix product or look-up with a "
        "constant weight",
        "exclude fewer sites, or use --preset float to optimize without quantizing"
        if any(isinstance(item, Quantize) and item.exclude for item in recipe)
        else "use --preset float to optimize without quantizing",
    )
