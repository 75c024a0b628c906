"""The order in which weights are quantized: as the data flows, each with what it meets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import Site, find_sites
from bitfold.passes.calibrate.token_weights import KeptWeights, Tokens, token_weights
from bitfold.passes.calibrate.walk import walk
from bitfold.passes.core.context import Feeds
from bitfold.passes.core.stage import snapshot
from bitfold.passes.quantize.jobs import Job


class InOrder:
    """Puts jobs in the order of the data, with their Gram matrices.

    Args:
        model: as it is before anything is quantized.
        samples: inputs, in the original coordinates.
        sequential: inputs of a weight are what a model gives whose earlier sites are quantized
            already; otherwise, what it gives before anything is.
        tokens: how much each counts.
        known: holds what an earlier run found of that.
    """

    def __init__(
        self,
        model: ir.Model,
        samples: Sequence[Feeds],
        sequential: bool,
        tokens: Tokens = "even",
        known: KeptWeights | None = None,
    ) -> None:
        self.model = model
        self.samples = samples
        self.known = known
        self.walked = model if sequential else snapshot(model)
        # The snapshot has the same sites in the same order.
        pairs = zip(find_sites(model), find_sites(self.walked), strict=True)
        self.own = {site.node: own for site, own in pairs}
        # Settled before anything is quantized: a run that goes on finds some of it done.
        told = [own for own in self.own.values() if is_told(own, self.walked)]
        self.counted = token_weights(self.walked, told, tokens)

    def batches(self, jobs: Sequence[Job]) -> Iterator[list[Job]]:
        """Yield jobs that need nothing of each other, in lists; then those that need these.

        Those whose inputs tell nothing come first, without a Gram matrix: embedding tables,
        convolutions with groups, and sites in subgraphs.  A table that is looked up as well as
        multiplied (an embedding tied to the head) has rows that go out as they are: to them all
        channels matter alike, and as much in sum as to the product.  A site that reads nothing on
        the samples, or nothing but zeros, has no Gram matrix either.

        Args:
            jobs: those that are left to do.  Whoever asks for the next ones has changed the sites
                of the ones before.
        """
        told = [[site for site in job.sites if is_told(site, self.model)] for job in jobs]
        blind = [job for job, known in zip(jobs, told, strict=True) if not known]
        if blind:
            yield blind
        waiting = {index: len(known) for index, known in enumerate(told) if known}
        job_of = {self.own[site.node].node: index for index in waiting for site in told[index]}
        sites = [self.own[site.node] for index in waiting for site in told[index]]
        sums: dict[int, np.ndarray] = {}
        for step in walk(self.walked, sites, self.samples, self.counted, self.known):
            ready = []
            for site in step.sites:
                index = job_of[site.node]
                job, gram = jobs[index], step.likely_gram(site) / len(told[index])
                sums[index] = sums[index] + gram if index in sums else gram
                waiting[index] -= 1
                if not waiting[index]:
                    gram = sums.pop(index)
                    if not gram.any():
                        ready.append(job)
                        continue
                    if any(each.kind == "gather" for each in job.sites):
                        gram = gram + np.eye(len(gram)) * np.diag(gram).mean()
                    weighted = any(self.own[each.node].node in self.counted for each in told[index])
                    ready.append(Job(job.source, job.sites, gram, weighted))
            if ready:
                yield ready


def is_told(site: Site, model: ir.Model) -> bool:
    """Whether the Gram matrix of its inputs says what an error of its weight costs."""
    if site.node.graph is not model.graph or site.kind == "gather":
        return False
    return site.conv is None or site.conv.groups == 1
