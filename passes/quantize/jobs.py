"""The weights that are there to quantize, and why others stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.near_misses import near_miss
from bitfold.passes.analysis.sites import Site, find_sites
from bitfold.passes.core.context import Context
from bitfold.passes.core.words import counted
from bitfold.passes.quantize.packed_size import packed_nbytes
from bitfold.runtime.errors import ModelError
from bitfold.runtime.formats.scheme import QuantScheme

SMALLEST, SMALLEST_DEPTHWISE = 1024, 512
"""Weights with fewer elements than this are not worth a low-bit operator.

Depthwise weights are small even where images are large: left in float between low-bit
convolutions, ONNX Runtime would turn the images to its own layout and back.
"""

SHORTEST_ROW = 16
"""Look-up tables of shorter rows hold coordinates or the like, whose every digit counts."""


@dataclass(frozen=True)
class Job:
    """A weight to quantize.

    Attributes:
        source: where it comes from.
        sites: all that share it; the first one speaks for them.
        gram: f64[K, K], the mean of ``x x^T`` over the inputs that they give it; None if unknown.
        weighted: whether some of these inputs count more there than others.
    """

    source: ir.Value
    sites: list[Site]
    gram: np.ndarray | None = None
    weighted: bool = False


def find_jobs(
    model: ir.Model,
    context: Context,
    exclude: tuple[str, ...],
    scheme_of: Callable[[Sequence[Site]], QuantScheme],
) -> Iterator[Job]:
    """The weights that are quantized; sites whose are not are told to the context.

    Args:
        exclude: globs of site or weight names to leave in float.
        scheme_of: the scheme of sites that share a weight.
    """
    # One weight read as [in, out] here and as [out, in] there is two weights: groups of
    # input channels lie across each other.
    by_source: dict[tuple[ir.Value, bool], list[Site]] = {}
    for node in model.graph.all_nodes():
        reason = near_miss(node)
        if reason:
            context.entry.skipped(node.name or "(unnamed)", reason)
    for site in find_sites(model):
        reason = _reason_to_skip(site, exclude)
        if reason:
            context.entry.skipped(site.name, reason, shape_of(site))
        else:
            by_source.setdefault((site.source, site.out_first), []).append(site)
    for (source, _), sites in by_source.items():
        (n, k), scheme = sites[0].shape, scheme_of(sites)
        conv = sites[0].conv
        packed = packed_nbytes((n, k), scheme.weight, conv)
        # Depthwise weights weigh nothing either way; their kernel is what pays.
        if packed < 4 * n * k or (conv is not None and conv.depthwise):
            yield Job(source, sites)
            continue
        for site in sites:
            context.entry.skipped(
                site.name,
                "its weight would be no smaller with its padding",
                f"{shape_of(site)}: {packed} bytes, and {4 * n * k} in float",
            )


def _reason_to_skip(site: Site, exclude: tuple[str, ...]) -> str | None:
    n, k = site.shape
    if site.quantized is not None:
        return "already quantized"
    if site.matches(exclude):
        return "excluded by the recipe"
    if site.source.dtype != ir.DataType.FLOAT:
        return f"the weight is {site.source.dtype}, only FLOAT is quantized"
    depthwise = site.conv is not None and site.conv.depthwise
    if n * k < (SMALLEST_DEPTHWISE if depthwise else SMALLEST):
        return "its weight is too small to gain from it"
    if site.kind == "gather" and k < SHORTEST_ROW:
        return "its table has rows too short for a scale, and little to gain"
    if site.kind == "gather" and _feeds_rotary(site.node):
        return "a table of rotary angles, not an embedding"
    return None


def shape_of(site: Site) -> str:
    """A site's weight as people write it: outputs x inputs."""
    return " x ".join(map(str, site.shape))


def finite_weight(site: Site) -> np.ndarray:
    """The site's weight [N, K].

    Raises:
        ModelError: it holds NaN or infinity.
    """
    weight = site.weight()
    # A sum is finite unless an element is not (or it overflows: then look at each).
    if not np.isfinite(weight.sum()) and not np.isfinite(weight).all():
        bad = counted(int((~np.isfinite(weight)).sum()), "NaN or infinite value")
        raise ModelError(
            f"weight {site.source.name!r} of {site.name!r} has {bad}",
            "export the model again, or leave the site out with --exclude",
        )
    return weight


def _feeds_rotary(node: ir.Node) -> bool:
    """Whether what ``node`` looks up goes to a RotaryEmbedding."""
    reshaping = ("Unsqueeze", "Squeeze", "Reshape", "Cast", "Slice", "Transpose")
    pending = list(node.outputs[0].consumers())
    while pending:
        consumer = pending.pop()
        if consumer.op_type == "RotaryEmbedding":
            return True
        if consumer.op_type in reshaping:
            pending += consumer.outputs[0].consumers()
    return False
