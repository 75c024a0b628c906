"""Bring padding to where the window is: an explicit list on the Conv or AveragePool.

Onnxscript's own rules take a Pad into a Conv, and resolve ``auto_pad`` where shapes are known.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule

from bitfold.passes.canonicalize.matched import node_of
from bitfold.passes.canonicalize.rules import Rule, decline, ints, pass_over, scalar


class ResolveAutoPad(Rule):
    """SAME_UPPER and SAME_LOWER of a window that moves by 1: the same for every input size."""

    def __init__(self) -> None:
        super().__init__("Conv with auto_pad spelled out")

    def pattern(self, op: Any, x: Any, weight: Any) -> Any:
        return op.Conv(
            x, weight, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["conv"]
        )

    def check(self, context: Any, weight: ir.Value, conv: ir.Value, **_: Any) -> MatchResult:
        node = node_of(conv)
        padding = node.attributes.get_string("auto_pad", "NOTSET")
        if padding not in ("SAME_UPPER", "SAME_LOWER"):
            return pass_over()
        if any(step != 1 for step in node.attributes.get_ints("strides", [1])):
            return decline(f"{padding} of a window that strides depends on the input's size", conv)
        if weight.shape is None or not weight.shape.is_static():
            return decline("the kernel's shape is not known", weight)
        return MatchResult()

    def rewrite(self, op: Any, x: ir.Value, weight: ir.Value, conv: ir.Value, **_: Any) -> Any:
        node = node_of(conv)
        assert weight.shape is not None, "checked"
        kernel = weight.shape.numpy()[2:]
        dilations = node.attributes.get_ints("dilations", [1] * len(kernel))
        totals = [(size - 1) * step for size, step in zip(kernel, dilations, strict=True)]
        small, large = [each // 2 for each in totals], [each - each // 2 for each in totals]
        upper = node.attributes.get_string("auto_pad", "") == "SAME_UPPER"
        attributes = {k: v for k, v in node.attributes.items() if k not in ("auto_pad", "pads")}
        pads = [*small, *large] if upper else [*large, *small]
        return op.op("Conv", *node.inputs, **attributes, pads=pads)


class PadIntoAveragePool(Rule):
    """``AveragePool(Pad(x, 0))`` to AveragePool with ``pads`` that it counts."""

    def __init__(self) -> None:
        super().__init__("AveragePool with the padding before it")

    def pattern(self, op: Any, x: Any) -> Any:
        padded = op.Pad(x, _allow_other_inputs=True, _outputs=["padded"])
        return op.AveragePool(padded, _allow_other_attributes=True, _outputs=["pooled"])

    def check(
        self, context: Any, x: ir.Value, padded: ir.Value, pooled: ir.Value, **_: Any
    ) -> MatchResult:
        pad, pool = node_of(padded), node_of(pooled)
        amounts = _amounts(pad, x)
        if isinstance(amounts, str):
            return decline(amounts, padded)
        attributes = pool.attributes
        if attributes.get_int("ceil_mode", 0) or attributes.get_string(
            "auto_pad", "NOTSET"
        ) not in (
            "NOTSET",
            "VALID",
        ):
            return decline("its windows reach over the edge", pooled)
        own = any(attributes.get_ints("pads", []))
        if own and not attributes.get_int("count_include_pad", 0):
            return decline("it does not count its own padding", pooled)
        total = _total(pool, amounts)
        kernel = list(attributes.get_ints("kernel_shape", []))
        if any(pad >= size for pad, size in zip(total, kernel * 2, strict=True)):
            return decline("the padding is as large as the window", pooled)
        return MatchResult()

    def rewrite(self, op: Any, x: ir.Value, padded: ir.Value, pooled: ir.Value, **_: Any) -> Any:
        pad, pool = node_of(padded), node_of(pooled)
        amounts = _amounts(pad, x)
        assert not isinstance(amounts, str), "checked"
        replaced = ("pads", "count_include_pad", "auto_pad")
        attributes = {k: v for k, v in pool.attributes.items() if k not in replaced}
        pads = _total(pool, amounts)
        return op.op("AveragePool", x, **attributes, pads=pads, count_include_pad=1)


def _total(pool: ir.Node, amounts: list[int]) -> list[int]:
    own = list(pool.attributes.get_ints("pads", [])) or [0] * len(amounts)
    return [a + b for a, b in zip(own, amounts, strict=True)]


def _amounts(pad: ir.Node, x: ir.Value) -> list[int] | str:
    """What a Pad adds to the spatial axes, begins then ends; or why it is no window's padding."""
    if pad.attributes.get_string("mode", "constant") != "constant":
        return "it does not pad with a constant"
    inputs = [*pad.inputs, None, None][:4]
    if inputs[2] is not None and scalar(inputs[2]) != 0:
        return "it does not pad with zeros"
    if x.shape is None:
        return f"the rank of {x.name} is not known"
    rank = len(x.shape)
    amounts = ints(inputs[1])
    axes = list(range(rank)) if inputs[3] is None else ints(inputs[3])
    if amounts is None or axes is None:
        return "its amounts are not constants"
    full = [0] * (2 * rank)
    for place, axis in enumerate(axes):
        full[axis % rank] = amounts[place]
        full[axis % rank + rank] = amounts[place + len(axes)]
    if any(full[:2]) or any(full[rank : rank + 2]) or min(full) < 0:
        return "it pads other axes, or cuts off"
    return full[2:rank] + full[rank + 2 :]


RULES: tuple[RewriteRule, ...] = (ResolveAutoPad.rule(), PadIntoAveragePool.rule())
