"""Bring a model to one opset of the default domain, without moving its weights."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from bitfold.passes.opsets.conversion import Conversion
from bitfold.passes.opsets.infer_shapes import infer_shapes
from bitfold.passes.opsets.inline_functions import inline_functions
from bitfold.passes.opsets.newer import check_newer
from bitfold.passes.opsets.steps import STEPS
from bitfold.runtime.errors import UnsupportedError

CANONICAL = 23
"""The opset of the passes; from here on, the operators in use kept their meaning."""

OLDEST = 6
"""Opset 6 came with ONNX 1.1, before the first stable exporters."""

NEWEST_IR = 11
"""The IR version that came with opset 23; runtimes refuse versions that they do not know."""


_LAST_KERNELS = {
    **dict.fromkeys(("RoiAlign", "MaxRoiPool", "GlobalLpPool", "Multinomial", "Bernoulli"), 21),
    **dict.fromkeys(("RandomNormal", "RandomUniform"), 21),
    **dict.fromkeys(("RandomNormalLike", "RandomUniformLike"), 21),
}
"""The last opset whose version of an operator ONNX Runtime has a CPU kernel for."""


def newest_with_kernels(model: ir.Model, target: int) -> tuple[int, str]:
    """The opset to convert ``model`` to, and why that is not ``target``; empty where it is.

    A model that is newer than that already stays so: it has no kernel to lose.
    """
    found = model.graph.opset_imports.get("", model.graph.opset_imports.get("ai.onnx", target))
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    for graph in graphs:
        for node in graph.all_nodes():
            last = _LAST_KERNELS.get(node.op_type, target) if node.domain == "" else target
            if last < target and found <= last:
                return last, (
                    f"opset {last} is the newest in which ONNX Runtime runs {node.op_type}: what "
                    f"needs opset {target} is not raised"
                )
    return target, ""


def convert_opset(model: ir.Model, target: int) -> int:
    """Convert ``model`` in place to opset ``target`` and return the opset it had.

    Every operator that changed on the way is rewritten, one opset at a time, in subgraphs too
    (:mod:`.steps`); a newer model is taken where it needs nothing newer
    (:mod:`.newer`).  Weights stay where they are.  Model-local functions are inlined;
    those of bitfold's own operators stay as they are.

    Raises:
        UnsupportedError: the model's opset is older than 6, or an operator has no equivalent.
        ModelError: functions that cannot be inlined, or an operator without what it needs.
    """
    imports = model.graph.opset_imports
    if "ai.onnx" in imports:
        imports[""] = imports.pop("ai.onnx")
    found = imports.get("")
    if found is not None and found < OLDEST:
        raise UnsupportedError(
            f"the model's opset: expected {OLDEST} or newer, found {found}",
            hint="export the model again with a newer opset",
        )
    inlined = inline_functions(model)
    if found is None:
        imports[""] = target
        found = target
    nodes = [node for node in model.graph.all_nodes() if node.domain == ""]
    versions = {node.version or found for node in nodes}
    if max(versions, default=found) > target:
        check_newer(model, found, target)
    if min(versions, default=found) < target:
        if found < target or inlined:
            infer_shapes(model)  # some steps ask for types and ranks
        _convert_up(model, found, target)
    for node in model.graph.all_nodes():
        if node.domain == "":
            node.version = None
    imports[""] = target
    # Files of the old IR versions list initializers as inputs; opsets want an IR version to match.
    model.ir_version = min(max(model.ir_version or 0, 10), NEWEST_IR)
    return found


def _convert_up(model: ir.Model, found: int, target: int) -> None:
    changed = False
    for version in range(OLDEST + 1, target + 1):
        steps = STEPS.get(version)
        if steps is None:
            continue
        for graph in list(model.graphs()):
            for node in list(graph):
                step = steps.get(node.op_type) if node.domain == "" else None
                if step is None or (node.version or found) >= version:
                    continue
                conversion = Conversion(node, version)
                step(conversion)
                conversion.finish(graph)
                changed = True
    if changed:
        common.NameFixPass()(model)
