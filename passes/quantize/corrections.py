"""What rounding does to the mean and the variance of outputs, made up for where it can be."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bitfold.passes.core.context import Context
from bitfold.passes.quantize.correct_bias import correct_bias
from bitfold.passes.quantize.correct_variance import with_variance
from bitfold.passes.quantize.jobs import Job
from bitfold.passes.quantize.piece import Piece
from bitfold.passes.quantize.weight_sum import WeightSum


@dataclass(frozen=True)
class Corrections:
    """Corrects rounded weights, which are then put into the graph.

    Attributes:
        model: that the weights are of.
        context: of the run.
        means: of what sites read, by name; sites that have none here stay as they are.
        bias: whether biases take up mean errors.
        variance: whether outputs are scaled to vary as before.
        done_to: counts what was ``corrected`` and what ``varied``.
    """

    model: ir.Model
    context: Context
    means: dict[str, np.ndarray]
    bias: bool
    variance: bool
    done_to: Counter[str]

    def of(self, job: Job, piece: Piece, rounded: WeightSum) -> WeightSum:
        """The weight to use for a job that was rounded so; biases are changed in the graph."""
        mean = self.means.get(str(job.sites[0].data.name))
        if self.variance and mean is not None and not job.weighted:
            varied = with_variance(piece, rounded, mean)
            self.done_to["varied"] += varied is not None
            rounded = varied or rounded
        # Eight bits lose so little that made-up inputs, whose means are not the real ones',
        # may do more harm than good; below that they always help.
        trusted = self.context.real or rounded.codes.scheme.number.bits < 8
        if not self.bias or not trusted:
            return rounded
        for site in job.sites:
            mean = self.means.get(str(site.data.name))
            if mean is not None and site.node.graph is self.model.graph:
                lost = piece.rows.reshape(piece.shape) - rounded.dequantize().reshape(piece.shape)
                self.done_to["corrected"] += correct_bias(site, lost, mean, self.context)
        return rounded
