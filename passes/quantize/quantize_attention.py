"""``quantize-attention``: low-bit probabilities, keys and values inside attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import onnx_ir as ir

from bitfold.passes.core.base import Pass, Promise
from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import shared_initializer
from bitfold.passes.quantize.probability_scale import best_scale, scale_rounding, seen_of
from bitfold.runtime.errors import CalibrationError, RecipeError
from bitfold.runtime.ops.body import call
from bitfold.runtime.ops.quantize_activation import activation_attributes, quantize_activation
from bitfold.runtime.ops.quantize_probabilities import (
    Levels,
    probability_attributes,
    quantize_probabilities,
)

EMULATED = "no target has kernels for low-bit attention: it runs in float, on rounded values"


@dataclass(frozen=True)
class QuantizeAttention(Pass):
    """Round what attention multiplies: its probabilities, and its keys and values.

    It shows what low-bit attention would cost in accuracy; the report says that it is emulated.

    1. Keys and values [batch, heads, sequence, head] are rounded for each token and head before
       they go to the cache, so that it holds nothing else: a KV4 or KV8 cache (FireQ, arXiv
       2505.20839; OSTQuant, arXiv 2501.13987).  Where ``rotate`` has put a Hadamard transform
       before, its outputs are rounded.
    2. An Attention whose probabilities are rounded becomes its parts: products, mask, Softmax.
    3. Comes before ``fuse-attention``, which leaves such attention to standard operators.
    4. Skipped, with the reason: shapes that are not known; for probabilities also caches, causal
       attention, shared K/V heads, and other outputs than the first.

    Attributes:
        probabilities: levels of what the softmax gives, as in ``QuantizeProbabilities``:
            ``uniform``, ``log2``, ``log_sqrt2`` or ``binary``; ``none`` to keep it.
        bits: of a probability; ``binary`` has 1.
        scale: the largest level: ``one``, or what loses the least of each attention's probabilities
            on the calibration inputs, ``calibrated`` (not with ``binary``, whose levels are each
            row's own).
        kv: bits of keys and values: 8, 4, 3 or 2; 0 to keep them.
    """

    name: ClassVar[str] = "quantize-attention"
    promise: ClassVar[Promise] = Promise.LOSSY

    probabilities: Literal["none", "uniform", "log2", "log_sqrt2", "binary"] = "none"
    bits: int = 4
    scale: Literal["one", "calibrated"] = "one"
    kv: int = 8

    def __post_init__(self) -> None:
        if self.kv not in (0, 2, 3, 4, 8):
            raise RecipeError(f"quantize-attention: expected kv of 8, 4, 3, 2 or 0, not {self.kv}")
        if not 1 <= self.bits <= 8:
            raise RecipeError(f"quantize-attention: expected bits from 1 to 8, found {self.bits}")
        if self.scale == "calibrated" and self.probabilities in ("none", "binary"):
            raise RecipeError(
                f"quantize-attention: no scale to calibrate for probabilities={self.probabilities}",
                "it is for probabilities=log2|log_sqrt2|uniform",
            )
        if not self.kv and self.probabilities == "none":
            raise RecipeError(
                "quantize-attention: nothing to quantize",
                "give probabilities=log2|log_sqrt2|uniform|binary, or kv=8|4",
            )

    def run(self, model: ir.Model, context: Context) -> bool:
        changed = False
        softmaxes: list[ir.Value] = []
        for node in list(model.graph):
            if node.op_type != "Attention" or node.domain != "":
                continue
            site, done = node.name or str(node.outputs[0].name), []
            if self.kv:
                reason = _round_cache(model, node, self.kv)
                done += [] if reason else [f"keys and values of {self.kv} bits"]
                if reason:
                    context.entry.skipped(site, f"keys and values: {reason}")
            if self.probabilities != "none":
                how = (self.probabilities, self.bits)
                reason = _round_probabilities(model, context, node, *how, softmaxes)
                done += [] if reason else [f"{self.probabilities} probabilities"]
                if reason:
                    context.entry.skipped(site, f"probabilities: {reason}")
            if done:
                context.entry.changed(site, " and ".join(done) + ", emulated")
                changed = True
        if self.scale == "calibrated":
            self._calibrate(model, context, softmaxes)
        if changed:
            context.entry.note(EMULATED)
        return changed

    def _calibrate(self, model: ir.Model, context: Context, softmaxes: Sequence[ir.Value]) -> None:
        """Scale what is rounded of each softmax, one after the other as the data flows."""
        levels = self.probabilities
        assert levels != "none", "refused when it was made"
        samples = context.statistics()
        if not samples and softmaxes:
            raise CalibrationError(
                "scale=calibrated needs inputs to see probabilities of, and has none",
                "give some with --calibration, or leave it out",
            )
        scales = []
        for value in softmaxes:
            seen = seen_of(model, value, samples)
            scales.append(best_scale(seen, levels, self.bits))
            scale_rounding(model, context, value, scales[-1])
        if scales:
            ends = f"{min(scales):.3g} to {max(scales):.3g}"
            context.entry.note(f"largest levels of probabilities: {ends}")


def _round_cache(model: ir.Model, attention: ir.Node, bits: int) -> str:
    """Round keys and values, which keep their form; return why not, or an empty string."""
    given = attention.inputs[1:3]
    heads = [_head_size(value) for value in given]
    if None in heads:
        return "not known as [batch, heads, sequence, head]"
    for index, (value, head) in enumerate(zip(given, heads, strict=True), start=1):
        assert value is not None, "it has a size"
        assert head is not None, "checked above"
        function = quantize_activation(head, head, bits)
        name = f"{value.name}.quantize_int{bits}_head"
        node = call(model, function, [value], activation_attributes(head, bits), name)
        rounded = node.outputs[0]
        rounded.name, rounded.type, rounded.shape = f"{name}d.{index}", value.type, value.shape
        model.graph.insert_before(attention, node)
        attention.replace_input_with(index, rounded)
    return ""


def _head_size(value: ir.Value | None) -> int | None:
    """The last of four axes, where it is known."""
    if value is None or value.shape is None or len(value.shape) != 4:
        return None
    size = value.shape[3]
    return size if isinstance(size, int) else None


def _round_probabilities(
    model: ir.Model,
    context: Context,
    attention: ir.Node,
    levels: Levels,
    bits: int,
    softmaxes: list[ir.Value],
) -> str:
    """Take the Attention apart and round what its Softmax gives; return why not, or nothing.

    What the Softmax gives is added to ``softmaxes``.
    """
    q, k, v, mask = [*attention.inputs, None][:4]
    reason = _refusal(attention, q, k, v)
    if reason:
        return reason
    head = _head_size(q)
    assert head is not None, "checked above"
    tape, output = ir.tape.Tape(), attention.outputs[0]

    def build(op: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        return tape.op(op, inputs, attributes)

    def constant(number: float, name: str) -> ir.Value:
        array = np.array(number, np.float32)
        return shared_initializer(model.graph, context, array, f"bitfold.{name}")

    scale = attention.attributes.get_float("scale", 0.0) or 1 / math.sqrt(head)
    scaled = build("Mul", q, constant(scale, f"scale_{scale:.9g}"))
    scores = build("MatMul", scaled, build("Transpose", k, perm=[0, 1, 3, 2]))
    if mask is not None and mask.dtype == ir.DataType.BOOL:
        scores = build("Where", mask, scores, constant(float(np.finfo(np.float32).min), "lowest"))
    elif mask is not None:
        scores = build("Add", scores, mask)
    weights = build("Softmax", scores, axis=-1)
    function = quantize_probabilities(levels, bits)
    model.functions.setdefault(function.identifier(), function)
    rounded = tape.op(
        function.name,
        [weights],
        probability_attributes(levels, bits),
        domain=function.domain,
        overload=function.overload,
    )
    model.graph.opset_imports[function.domain] = 1
    mixed = build("MatMul", rounded, v)
    for number, node in enumerate(tape.nodes):
        node.name = f"{attention.name or output.name}/{number}_{node.op_type}"
        node.outputs[0].name = f"{node.name}_output"
    ir.convenience.replace_nodes_and_values(
        model.graph, attention, [attention], list(tape.nodes), [output], [mixed]
    )
    softmaxes.append(weights)
    return ""


def _refusal(attention: ir.Node, q: ir.Value | None, k: ir.Value | None, v: ir.Value | None) -> str:
    if any(attention.inputs[4:]) or any(each.uses() for each in attention.outputs[1:]):
        return "it has a cache, or another output than the first is used"
    if attention.attributes.get_int("is_causal", 0):
        return "it is causal"
    if attention.attributes.get_float("softcap", 0.0):
        return "its scores are bounded"
    if None in [_head_size(each) for each in (q, k, v)]:
        return "not known as [batch, heads, sequence, head]"
    heads = {each.shape[1] for each in (q, k, v) if each is not None and each.shape is not None}
    return "" if len(heads) == 1 else "its heads share keys and values"
