"""``fuse-skip-norm``: a residual Add and the norm behind it become one of ORT's skip norms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir
from onnxscript.rewriter.pattern import Pattern

from bitfold.passes.core.base import Pass, Promise
from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import vector
from bitfold.passes.core.targets import ORT_DOMAIN, Target
from bitfold.passes.core.words import counted


@dataclass(frozen=True)
class FuseSkipNorm(Pass):
    """``norm(a + b)`` to SkipSimplifiedLayerNormalization, or SkipLayerNormalization.

    The op's fourth output is the sum, under the name that it had, for the residual stream.  Fewer
    nodes, but not faster on a CPU: on ORT 1.31 (width 576, 2 threads, 60 pairs in a row) the RMS
    form takes the same time as Add and RMSNormalization for one token and 1.8 times as long for
    512, the LayerNorm form 2.5 and 7 times; hence ``layer_norm`` is off, and no preset for the CPU
    needs the pass.

    Left alone, with the reason: sums that broadcast or have another rank than 2 or 3, gains that
    are no constant vectors.

    Nothing is done for target ``portable``: the ops are ORT's own.

    Attributes:
        target: what the model must run on.
        layer_norm: fuse LayerNormalization too.
    """

    name: ClassVar[str] = "fuse-skip-norm"
    promise: ClassVar[Promise] = Promise.EXACT

    target: Target = "native"
    layer_norm: bool = False

    def run(self, model: ir.Model, context: Context) -> bool:
        if self.target == "portable":
            context.entry.note("left alone: skip norms are no standard ops")
            return False
        changed = False
        for node in list(model.graph):
            pattern = PATTERNS.get(node.op_type) if node.domain == "" else None
            if pattern is None:
                continue
            match = pattern.match(model, model.graph, node, check_nodes_are_removable=False)
            if not match:
                continue
            found: dict[str, ir.Value] = dict(match.bindings)
            site = node.name or str(node.outputs[0].name)
            reason = self._refusal(node, found)
            if reason:
                context.entry.skipped(site, reason)
                continue
            new = _fuse(model.graph, node, found)
            context.entry.changed(site, f"its sum and norm are one {new.op_type}")
            changed = True
        if changed:
            model.graph.opset_imports[ORT_DOMAIN] = 1
        return changed

    def _refusal(self, norm: ir.Node, found: dict[str, ir.Value]) -> str:
        total, a, b = found["total"], found["a"], found["b"]
        if norm.op_type == "LayerNormalization" and not self.layer_norm:
            return "SkipLayerNormalization is slower than Add and LayerNormalization"
        if a.dtype != ir.DataType.FLOAT or a.is_initializer() or b.is_initializer():
            return "it is not the sum of two float activations"
        if a.shape is None or b.shape is None or total.shape is None:
            return "the shapes of what is added are not known"
        rank = len(total.shape)
        if rank not in (2, 3) or not len(a.shape) == len(b.shape) == rank:
            return f"the sum has {counted(rank, 'axis', 'axes')}, or broadcasts"
        if any(x != y for x, y in zip(a.shape, b.shape, strict=True) if 1 in (x, y) or _both(x, y)):
            return "the sum broadcasts"
        width = total.shape[-1]
        if not isinstance(width, int) or norm.attributes.get_int("axis", -1) not in (-1, rank - 1):
            return "the norm is not over a last axis of known size"
        if any(vector(value, width) is None for value in norm.inputs[1:]):
            return "its gain or bias is not a constant vector of the last axis"
        if any(output.uses() for output in norm.outputs[1:]):
            return "its statistics are used"
        return ""


def _one(op_type: str) -> Pattern:
    def pattern(op: Any, a: Any, b: Any) -> Any:
        total = op.Add(a, b, _outputs=["total"])
        return getattr(op, op_type)(
            total, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["out"]
        )

    return Pattern(pattern, name=op_type)


PATTERNS = {name: _one(name) for name in ("RMSNormalization", "LayerNormalization")}


def _both(x: object, y: object) -> bool:
    return isinstance(x, int) and isinstance(y, int)


def _fuse(graph: ir.Graph, norm: ir.Node, found: dict[str, ir.Value]) -> ir.Node:
    total, out = found["total"], norm.outputs[0]
    simplified = norm.op_type == "RMSNormalization"
    new = ir.node(
        "SkipSimplifiedLayerNormalization" if simplified else "SkipLayerNormalization",
        [found["a"], found["b"], *norm.inputs[1:]],
        {"epsilon": norm.attributes.get_float("epsilon", 1e-5)},
        domain=ORT_DOMAIN,
        num_outputs=4,
        name=norm.name,
    )
    # Mean and inverse deviation are not wanted; an empty name leaves an output out.
    new.outputs[1].name = new.outputs[2].name = ""
    add = total.producer()
    assert add is not None  # the pattern matched it
    # At the Add's place: others may read the sum before the norm comes.
    ir.convenience.replace_nodes_and_values(
        graph, add, [norm, add], [new], [out, total], [new.outputs[0], new.outputs[3]]
    )
    return new
