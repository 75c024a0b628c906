"""``fuse-swiglu``: name the gate of a merged gate-and-up projection as one operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule, RewriteRuleSet

from bitfold.passes.core.base import Pass, Promise
from bitfold.passes.core.context import Context
from bitfold.runtime.ops import DOMAIN, VERSION
from bitfold.runtime.ops.swiglu import swiglu


@dataclass(frozen=True)
class FuseSwiGLU(Pass):
    """Rewrite ``silu(gate) * up`` of the two halves of one value as ``bitfold.SwiGLU``.

    The native target then takes it into the matmul's epilogue.  Refused where the halves
    differ in size, or where one of them is used elsewhere too.
    """

    name: ClassVar[str] = "fuse-swiglu"
    promise: ClassVar[Promise] = Promise.EXACT

    def run(self, model: ir.Model, context: Context) -> bool:
        def check(op: Any, both: ir.Value, gate: ir.Value, **_: Any) -> MatchResult:
            result = MatchResult()
            if not halves(gate.producer()):
                context.entry.skipped(gate.name or "(unnamed)", "the Split is not into two halves")
                return result.fail("the Split is not into two halves of the last axis")
            context.entry.changed(both.name or "(unnamed)", "its SwiGLU is one operator")
            return result

        rules = [
            RewriteRule(split_by_count, replacement, check, name="SwiGLU"),
            RewriteRule(split_by_sizes, replacement, check, name="SwiGLU of sizes"),
        ]
        count = RewriteRuleSet(rules, commute=True).apply_to_model(model)
        if count:
            function = swiglu()
            model.functions[function.identifier()] = function
            model.graph.opset_imports[DOMAIN] = VERSION
        return bool(count)


def split_by_count(op: Any, both: Any) -> Any:
    """The pattern with ``Split``'s number of outputs as an attribute."""
    gate, up = op.Split(both, _outputs=["gate", "up"])
    return op.Mul(op.Mul(gate, op.Sigmoid(gate)), up)


def split_by_sizes(op: Any, both: Any, sizes: Any) -> Any:
    """The pattern with ``Split``'s sizes as an input."""
    gate, up = op.Split(both, sizes, _outputs=["gate", "up"])
    return op.Mul(op.Mul(gate, op.Sigmoid(gate)), up)


def replacement(op: Any, both: ir.Value, **_: Any) -> Any:
    """What the patterns become."""
    return op.SwiGLU(both, _domain=DOMAIN)


def halves(split: ir.Node | None) -> bool:
    """Whether ``split`` cuts the last axis into two equal parts."""
    if split is None or split.inputs[0] is None:
        return False
    rank = len(split.inputs[0].shape) if split.inputs[0].shape is not None else None
    axis = split.attributes.get_int("axis", 0)
    if axis != -1 and (rank is None or axis != rank - 1):
        return False
    if len(split.inputs) < 2 or split.inputs[1] is None:
        return True
    sizes = split.inputs[1].const_value
    return sizes is not None and len({int(each) for each in sizes.numpy()}) == 1
