"""The largest level of rounded probabilities, by what was seen of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bitfold.passes.calibrate.magnitudes import Magnitudes
from bitfold.passes.core.context import Context, Feeds
from bitfold.passes.core.own_coordinates import to_own
from bitfold.passes.core.rewire import new_initializer
from bitfold.runtime.execution import open_session
from bitfold.runtime.ops.quantize_probabilities import Levels

TRIED = np.exp2(-np.arange(64) / 16)
"""Shares of the largest probability that the largest level may have."""


def best_scale(seen: Magnitudes, levels: Levels, bits: int) -> float:
    """What probabilities are divided by before they are rounded, for the least squared error.

    Where no token takes all of a row, levels near 1 go unused, and those of a logarithm end too
    early below: RepQ-ViT scales the quantizer to the values of calibration and clips a few
    (Li et al., arXiv 2212.08254).  Here every clip is
    tried, on the values' counts.

    Args:
        seen: probabilities of one attention.
        levels: ``uniform``, ``log2`` or ``log_sqrt2``.
    """
    some = seen.counts > 0
    if not some.any() or seen.largest <= 0:
        return 1.0
    value = seen.sums[some] / seen.counts[some]
    weight = seen.counts[some]
    scales = min(seen.largest, 1.0) * TRIED

    def lost(scale: float) -> float:
        error = value - scale * rounded(np.minimum(value / scale, 1), levels, bits)
        return float((weight * error * error).sum())

    return float(min(scales, key=lost))


def rounded(share: np.ndarray, levels: Levels, bits: int) -> np.ndarray:
    """The levels nearest to numbers from 0 to 1, as ``QuantizeProbabilities`` has them."""
    if levels == "uniform":
        top = (1 << bits) - 1
        return np.asarray(np.rint(share * top) / top)
    rate = 1 if levels == "log2" else 2
    code = np.rint(-rate * np.log2(np.maximum(share, 1e-37)))
    return np.where(code < 1 << bits, np.exp2(-code / rate), 0.0)


def seen_of(model: ir.Model, value: ir.Value, samples: Sequence[Feeds]) -> Magnitudes:
    """The values that an inner value of the main graph has on samples."""
    seen = Magnitudes()
    session = open_session(model, outputs=[str(value.name)], optimize=False)
    for feeds in samples:
        seen.add(session.run(to_own(model.graph.inputs, feeds))[str(value.name)])
    return seen


def scale_rounding(model: ir.Model, context: Context, value: ir.Value, scale: float) -> None:
    """Divide by ``scale`` what the one reader of a value rounds, to 1 at most, and multiply after.

    Args:
        value: probabilities that a QuantizeProbabilities reads.
    """
    (rounding,) = value.consumers()
    stem, output = str(value.name), rounding.outputs[0]
    inverse, top, back = (
        new_initializer(model.graph, context, np.array(number, np.float32), f"{stem}.{name}")
        for number, name in ((1 / scale, "per_scale"), (1.0, "one"), (scale, "scale"))
    )
    divided = ir.node("Mul", [value, inverse], name=f"{stem}/divided")
    clipped = ir.node("Min", [divided.outputs[0], top], name=f"{stem}/clipped")
    scaled = ir.node("Mul", [output, back], name=f"{stem}/scaled")
    for node in (divided, clipped, scaled):
        made = node.outputs[0]
        made.name, made.type, made.shape = f"{node.name}_output", value.type, value.shape
    output.replace_all_uses_with(scaled.outputs[0])
    scaled.replace_input_with(0, output)
    rounding.replace_input_with(0, clipped.outputs[0])
    model.graph.insert_before(rounding, [divided, clipped])
    model.graph.insert_after(rounding, scaled)
