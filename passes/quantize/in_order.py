"""The order in which weights are quantized: as the data flows, each with what it meets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import Site, find_sites
from bitfold.passes.calibrate.walk import walk
from bitfold.passes.core.context import Feeds
from bitfold.passes.core.stage import snapshot


@dataclass(frozen=True)
class Job:
    """A weight to quantize.

    Attributes:
        source: where it comes from.
        sites: all that share it; the first one speaks for them.
        gram: f64[K, K], the mean of ``x x^T`` over the inputs that they give it; None if unknown.
    """

    source: ir.Value
    sites: list[Site]
    gram: np.ndarray | None = None


def in_order(
    model: ir.Model, jobs: Sequence[Job], samples: Sequence[Feeds], sequential: bool
) -> Iterator[Job]:
    """Yield jobs with their Gram matrices, in the order of the data.

    Those whose inputs tell nothing come first, without: embedding tables (and heads tied to one),
    convolutions with groups, and sites in subgraphs.

    Args:
        model: whoever asks for the next job has changed the sites of the one before.
        sequential: inputs are what a model gives whose earlier sites are quantized already;
            otherwise, what it gives before anything is.
    """
    known = [job for job in jobs if all(_is_told(site, model) for site in job.sites)]
    yield from (job for job in jobs if job not in known)
    twins = {site.node: site for site in find_sites(model)}
    walked = model
    if not sequential:
        walked = snapshot(model)
        copies = list(find_sites(walked))
        twins = dict(zip((copy.node for copy in copies), twins.values(), strict=True))
    job_of = {site.node: index for index, job in enumerate(known) for site in job.sites}
    chosen = [node for node, site in twins.items() if site.node in job_of]
    waiting = Counter(job_of.values())
    sums: dict[int, np.ndarray] = {}
    own = {site.node: site for site in find_sites(walked)}
    for step in walk(walked, [own[node] for node in chosen], samples):
        for site in step.sites:
            index = job_of[twins[site.node].node]
            job, gram = known[index], step.gram(site) / len(known[index].sites)
            sums[index] = sums[index] + gram if index in sums else gram
            waiting[index] -= 1
            if not waiting[index]:
                yield Job(job.source, job.sites, sums.pop(index))


def _is_told(site: Site, model: ir.Model) -> bool:
    """Whether the Gram matrix of its inputs says what an error of its weight costs."""
    if site.node.graph is not model.graph or site.kind == "gather":
        return False
    return site.conv is None or site.conv.groups == 1
