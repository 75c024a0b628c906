"""``reparam-ln``: make the channels behind a norm alike, in range and in middle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import Site, input_at, site_of
from bitfold.passes.analysis.spaces.gather import spread
from bitfold.passes.analysis.spaces.space import Space
from bitfold.passes.analysis.spaces.trace import Kind
from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import add_bias, constant, new_initializer, set_input
from bitfold.passes.transform.scaling import WIDEST, Candidate, Measured, ScalePass

NORMS = ("RMSNormalization", "LayerNormalization")


@dataclass(frozen=True)
class ReparamLn(ScalePass):
    """Turn a quantizer for each channel behind a norm into one for all of them.

    A channel-wise quantizer has for each channel a scale s and a zero point z; the layer-wise one
    has a mean scale and zero point for all.  With ``r1 = s / mean(s)`` and ``r2`` the difference of
    the zero points, the norm's gain becomes ``gain / r1``, its bias ``(bias + s r2) / r1``, its
    readers' weights ``W r1`` and their biases ``b - W (s r2)``: the layer-wise quantizer then does
    what the channel-wise one did.  RepQuant, Li et al., arXiv 2402.05628, section 3.2 (RepQ-ViT,
    arXiv 2212.08254).  bitfold rounds inputs symmetrically, so that the common zero point is the
    middle of the levels: each channel's middle moves to 0.

    1. Of scales and shifts together, scales alone and shifts alone, what loses least at the scheme
       that is asked for is done; where none lowers the estimated error, the norm stays.
    2. Shifts are for LayerNormalization (an RMSNormalization has no bias), all of whose readers are
       linear ops; others take scales alone.
    3. A norm whose output something else reads, or whose readers' weights others read too, stays,
       with the reason.

    Attributes:
        layer_scale: the scale that all channels get: the ``mean`` of their own, or the ``median``,
            which outliers do not move (DopQ-ViT's, Yang et al., arXiv 2408.03291, section 3.3).
            Where each row finds its own scale as the model runs, as bitfold's inputs do, the common
            scale cancels; a fixed one takes it over.
        spaces: globs of spaces (by their first writer's name: the norm's) to change.
        weights: number format that the weights will have.
        group: input channels that will share a scale; 0 for one scale per output channel.
        symmetric: whether zero points will be left out.
        acts: what inputs will be rounded to.
        act_granularity: an activation scale per row and weight group, or per row (token).
        caches: of no meaning here.
        copy_limit: elements; a weight that others read in other coordinates is copied up to here.
    """

    name: ClassVar[str] = "reparam-ln"

    layer_scale: Literal["mean", "median"] = "mean"

    def concerns(self, space: Space) -> bool:
        """Spaces that norms write."""
        return norm_of(space) is not None and super().concerns(space)

    def candidates(self, measured: Measured) -> list[Candidate]:
        low, high = measured.bounds()
        even = 1 / variation(2 * np.maximum(high, -low), self.layer_scale)
        found = [Candidate("scales", even)]
        if shiftable(measured.space):
            uneven, middles = 1 / variation(high - low, self.layer_scale), (low + high) / 2
            found.append(Candidate("scales and shifts", uneven, -middles))
            found.append(Candidate("shifts", np.ones_like(uneven), -middles))
        return found

    def make(self, space: Space, chosen: Candidate, context: Context) -> None:
        super().make(space, chosen, context)
        if chosen.shifts is not None:
            move(space, chosen.shifts * chosen.factors, context)


def variation(ranges: np.ndarray, layer_scale: Literal["mean", "median"]) -> np.ndarray:
    """r1: by how much each channel's range exceeds the layer's; 1 for channels without one.

    Args:
        ranges: of each channel, [blocks, size].
        layer_scale: which of them the layer gets.
    """
    alive = np.isfinite(ranges) & (ranges > 0)
    middle = np.median if layer_scale == "median" else np.mean
    common = middle(ranges[alive]) if alive.any() else 1.0
    ratio = np.where(alive, ranges, common) / common
    result: np.ndarray = np.clip(ratio, 1 / WIDEST, WIDEST)
    return result


def norm_of(space: Space) -> ir.Node | None:
    """The norm whose gain alone writes a space."""
    gains = [h.port.op for h in space.held if h.port.kind is Kind.GAIN]
    written = len(gains) == 1 and not space.writers
    return gains[0] if written and gains[0].op_type in NORMS else None


def shiftable(space: Space) -> bool:
    """Whether a norm's bias can take up a shift of its output, and its readers' biases undo it."""
    norm = norm_of(space)
    if norm is None or norm.op_type != "LayerNormalization" or space.blocks > 1:
        return False
    bias = input_at(norm, 2)
    if bias is not None and constant(bias) is None:
        return False
    users = {user for user, _ in norm.outputs[0].uses()}
    direct = all(site.kind in ("matmul", "gemm") for site in sites_of(space))
    return direct and users == {held.port.op for held in space.readers}


def sites_of(space: Space) -> list[Site]:
    """The linear ops that read a space."""
    found = [site_of(held.port.op) for held in space.readers]
    return [site for site in found if site is not None]


def move(space: Space, shifts: np.ndarray, context: Context) -> None:
    """Add ``shifts`` to the output of a space's norm, and take them back behind its readers."""
    norm = norm_of(space)
    assert norm is not None, "shifts are for norms"
    graph = norm.graph
    assert isinstance(graph, ir.Graph), "spaces are those of the main graph"
    for held, site in zip(space.readers, sites_of(space), strict=True):
        add_bias(site.node, -shifted(site.weight(), spread(held, shifts, 0.0)), context)
    gain = next(held for held in space.held if held.port.kind is Kind.GAIN)
    more = spread(gain, shifts, 0.0)
    old = constant(input_at(norm, 2))
    if old is not None:
        set_input(norm, 2, (old + more).astype(old.dtype), context, "shifted")
        return
    like = constant(norm.inputs[1])
    assert like is not None, "gains of spaces are constants"
    name = f"{norm.name or norm.outputs[0].name}/bias"
    norm.resize_inputs(3)
    norm.replace_input_with(2, new_initializer(graph, context, more.astype(like.dtype), name))


def shifted(weight: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """``W shifts``, f64[N], a few rows at a time: W may be large, and lie in a file."""
    step = max(1, (1 << 20) // max(1, weight.shape[1]))
    parts = (weight[start : start + step] for start in range(0, len(weight), step))
    return np.concatenate([part.astype(np.float64) @ shifts for part in parts])
