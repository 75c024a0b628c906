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

    The native target then takes it into the matmul's epilogue.  Refused, with the reason: a gate
    that is the second half (the operator takes the first), halves that differ in size or come
    from different values, and halves or a gate's activation that something else reads too.
    """

    name: ClassVar[str] = "fuse-swiglu"
    promise: ClassVar[Promise] = Promise.EXACT

    def run(self, model: ir.Model, context: Context) -> bool:
        def check(op: Any, both: ir.Value, gate: ir.Value, **_: Any) -> MatchResult:
            result = MatchResult()
            reason = refusal_of_split(gate.producer())
            if reason:
                return result.fail(reason)
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
        # What the patterns did not match says nothing of its own accord.
        for node in model.graph.all_nodes():
            found = gated(node)
            if found is not None:
                context.entry.skipped(node.name or node.outputs[0].name or "(unnamed)", why(*found))
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


def gated(product: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value] | None:
    """(gate, up, silu) where ``product`` is silu(gate) * up and a Split makes gate or up."""
    if product.op_type != "Mul" or product.domain != "":
        return None
    for silu, up in (product.inputs, product.inputs[::-1]):
        gate = gate_of(silu)
        if gate is not None and up is not None and any(map(split_of, (gate, up))):
            return gate, up, silu  # type: ignore[return-value]  # a gate has its silu
    return None


def gate_of(silu: ir.Value | None) -> ir.Value | None:
    """The gate where ``silu`` is gate * Sigmoid(gate)."""
    product = silu.producer() if silu is not None else None
    if product is None or product.op_type != "Mul" or product.domain != "":
        return None
    for gate, factor in (product.inputs, product.inputs[::-1]):
        sigmoid = factor.producer() if factor is not None else None
        if sigmoid is not None and sigmoid.op_type == "Sigmoid" and sigmoid.inputs[0] is gate:
            return gate
    return None


def split_of(value: ir.Value) -> ir.Node | None:
    """The Split that makes ``value``."""
    producer = value.producer()
    return producer if producer is not None and producer.op_type == "Split" else None


def why(gate: ir.Value, up: ir.Value, silu: ir.Value) -> str:
    """Why silu(gate) * up, a Split's output at least one of them, is no SwiGLU."""
    split = split_of(gate)
    if split is None or split_of(up) is not split:
        return "the gate and what it scales are not from one Split"
    reason = refusal_of_split(split)
    if reason:
        return reason
    if gate is up:
        return "the gate scales itself"
    if gate is not split.outputs[0]:
        return "the gate is the second half of the Split, SwiGLU takes the first"
    inner = [
        value for node, _ in gate.uses() for value in node.outputs if node.op_type == "Sigmoid"
    ]
    for value, readers in ((gate, 2), (up, 1), (silu, 1), *((each, 1) for each in inner)):
        if value.is_graph_output() or len(value.uses()) > readers:
            return f"{value.name} is used elsewhere too"
    return "it is not in the form that the pass knows"


def refusal_of_split(split: ir.Node | None) -> str:
    """Why ``split`` does not cut the last axis into two equal parts; empty if it does."""
    if split is None or len(split.outputs) != 2:
        return "the Split is not into two halves"
    value = split.inputs[0]
    rank = len(value.shape) if value is not None and value.shape is not None else None
    axis = split.attributes.get_int("axis", 0)
    if axis != -1 and (rank is None or axis != rank - 1):
        return "the Split is not along the last axis"
    if len(split.inputs) < 2 or split.inputs[1] is None:
        return ""
    sizes = split.inputs[1].const_value
    equal = sizes is not None and len({int(each) for each in sizes.numpy()}) == 1
    return "" if equal else "the Split is not into two halves"
