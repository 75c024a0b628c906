"""``static-inputs``: one scale for all of a value, from calibration, not one for each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sampled_values import values_on
from bitfold.passes.calibrate.magnitudes import Magnitudes
from bitfold.passes.core.base import Pass, Promise
from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import new_initializer
from bitfold.runtime.errors import CalibrationError, RecipeError
from bitfold.runtime.ops import DOMAIN
from bitfold.runtime.ops.body import call
from bitfold.runtime.ops.quantize_activation import static_attributes, static_quantize_activation

TOP = 127
"""The largest level of 8 bits."""

SMALLEST, LARGEST = 1e-30, 1e30
"""What the operator takes as a scale."""

Clip = Literal["minmax", "percentile", "mse"]


@dataclass(frozen=True)
class StaticInputs(Pass):
    """Round the inputs of matmuls to 8 bits with one scale that is known ahead.

    The kernels then need not look for the largest magnitude of each row and group, and integer
    hardware without such a step can run the result.  Activations with outliers lose more so.

    1. Comes behind ``quantize``: every rounding to 8 bits on the fly becomes static.
    2. What is larger than the calibrated range is clipped.
    3. Skipped, with the reason: inputs of fewer bits, of convolutions (whose kernel takes a scale
       for each pixel), in subgraphs, and such as are not finite on the calibration inputs.

    ``native``: LowBitMatMul's ``act_scale``; ``portable``: QuantizeLinear with a constant scale;
    ``ort``: MatMulNBits cannot, so ``lower`` refuses, or emulates in float and says so.

    Ranges as in A Survey of Quantization Methods (arXiv 2103.13630), section III-B.

    Attributes:
        clip: ``minmax`` to cover all that was seen, ``percentile`` for a share of it, ``mse`` for
            the least squared error.
        percentile: that share, in percent.
    """

    name: ClassVar[str] = "static-inputs"
    promise: ClassVar[Promise] = Promise.LOSSY

    clip: Clip = "mse"
    percentile: float = 99.99

    def __post_init__(self) -> None:
        if not 50 <= self.percentile <= 100:
            raise RecipeError(
                f"static-inputs: expected a percentile from 50 to 100, found {self.percentile}"
            )

    def run(self, model: ir.Model, context: Context) -> bool:
        nodes = [node for node in model.graph.all_nodes() if _rounds(node)]
        taken = []
        for node in nodes:
            reason = _reason_to_skip(node, model)
            if reason:
                context.entry.skipped(str(node.name), reason)
            else:
                taken.append(node)
        if not taken:
            return False
        samples = context.statistics()
        if not samples:
            raise CalibrationError(
                "static-inputs needs inputs to see how large values are, and there are none",
                "give some with --calibration, or leave the pass out",
            )
        names = list(dict.fromkeys(str(_source(node).name) for node in taken))
        seen = {name: Magnitudes() for name in names}
        bad: set[str] = set()
        for group, runs in values_on(model, names, samples):
            for found in runs:
                for name in group:
                    if np.isfinite(found[name]).all():
                        seen[name].add(found[name])
                    else:
                        bad.add(name)
        for node in taken:
            name = str(_source(node).name)
            if name in bad:
                context.entry.skipped(str(node.name), "not finite on the calibration inputs")
                continue
            reach = self.range_of(seen[name])
            scale = float(np.clip(reach / TOP, SMALLEST, LARGEST))
            _make_static(model, context, node, scale)
            share = reach / seen[name].largest if seen[name].largest else 1.0
            context.entry.changed(str(node.name), f"one scale for all, at {share:.0%} of the reach")
        return len(bad) < len(names)

    def range_of(self, seen: Magnitudes) -> float:
        """The magnitude that the largest level stands for; 0 where nothing but zeros was seen."""
        if self.clip == "minmax" or not seen.largest:
            return seen.largest
        if self.clip == "percentile":
            return seen.percentile(self.percentile / 100)
        return seen.best_clip(TOP)


def _rounds(node: ir.Node) -> bool:
    return node.domain == DOMAIN and node.op_type == "QuantizeActivation" and len(node.inputs) == 1


def _source(node: ir.Node) -> ir.Value:
    source = node.inputs[0]
    assert source is not None, "a QuantizeActivation has an input"
    return source


def _reason_to_skip(node: ir.Node, model: ir.Model) -> str:
    if node.attributes.get_int("bits", 8) != 8:
        return "of fewer than 8 bits: rows keep scales of their own"
    if node.attributes.get_int("axis", -1) != -1:
        return "of a convolution, whose kernel takes a scale for each pixel"
    if node.graph is not model.graph:
        return "in a subgraph, where nothing is sampled"
    return ""


def _make_static(model: ir.Model, context: Context, node: ir.Node, scale: float) -> None:
    """Give a QuantizeActivation its scale as a second input."""
    source, output = _source(node), node.outputs[0]
    name = f"{source.name}.static_scale"
    value = new_initializer(model.graph, context, np.array([scale], np.float32), name)
    function = static_quantize_activation()
    made = call(model, function, [source, value], static_attributes(), f"{node.name}_static")
    fresh = made.outputs[0]
    fresh.name, fresh.type, fresh.shape = f"{output.name}_static", output.type, output.shape
    ir.convenience.replace_nodes_and_values(model.graph, node, [node], [made], [output], [fresh])
