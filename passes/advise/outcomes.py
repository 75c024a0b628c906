"""What a plan makes of the whole model once it is quantized: how far it moves, and its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bitfold.passes.advise.row_losses import clearly_less, row_losses
from bitfold.passes.advise.trials import Trials, Verdict
from bitfold.passes.analysis.sites import find_sites
from bitfold.passes.core.compare import compare_outputs
from bitfold.passes.core.context import Context, Feeds
from bitfold.passes.core.report import Divergence, PassEntry
from bitfold.passes.core.stage import Stage, snapshot
from bitfold.passes.quantize.quantize import Quantize

LEAST = 0.05
"""Share of the loss that a plan has to take away: rotations may cost time as the model runs."""


@dataclass(frozen=True)
class Told:
    """What the report says of a change to a place.

    Attributes:
        title: what the change is.
        name: the place.
        pays: whether the plan makes it.
        text: with which figures.
    """

    title: str
    name: str
    pays: bool
    text: str

    @classmethod
    def of(cls, title: str, verdict: Verdict) -> Told:
        """A trial."""
        return cls(title, verdict.candidate.name, verdict.pays, str(verdict))

    @property
    def what(self) -> tuple[str, str]:
        """The change and the place."""
        return self.title, self.name


@dataclass(frozen=True)
class Outcome:
    """What a plan makes of the whole model.

    Attributes:
        title: what the plan is.
        trials: the model that it makes, and the passes that do it.
        told: every trial on the way, and what was changed without one.
        divergence: of the quantized model's outputs from the float one's.
        rows: the loss of each row of them, [rows].
        bits: that the quantized model takes for each weight of the original.
    """

    title: str
    trials: Trials
    told: tuple[Told, ...]
    divergence: Divergence
    rows: np.ndarray
    bits: float

    @property
    def loss(self) -> float:
        """What is to be small: the distance of the outputs, at the price of the bits.

        A bit more for every weight would make it a quarter: steps would be half as wide.
        """
        return self.divergence.distance * 4**self.bits

    def clearly_better(self, other: Outcome) -> bool:
        """Whether it loses less, by more than may be chance or is worth the trouble."""
        return clearly_less(self.rows * 4**self.bits, other.rows * 4**other.bits, LEAST)

    def __str__(self) -> str:
        kl = self.divergence.kl
        figure = f"cosine {self.divergence.cosine:.5f}" if kl is None else f"KL {kl:.3g}"
        return f"{self.title} {figure} at {self.bits:.2f} bits a weight"


class Judge:
    """Quantizes whole models that plans have changed, and compares them with the original.

    Args:
        original: the float model.
        quantizer: the pass that quantizes as the scheme says.
    """

    def __init__(
        self, original: ir.Model, quantizer: Quantize, samples: Sequence[Feeds], context: Context
    ) -> None:
        self.reference = Stage(original, samples)
        self.quantizer = quantizer
        self.context = context
        sizes = {site.source: int(np.prod(site.shape)) for site in find_sites(original)}
        self.weights = sum(sizes.values())

    def outcome(self, title: str, trials: Trials, told: Sequence[Told] = ()) -> Outcome:
        """What has become of the model that some trials have left."""
        quantized = snapshot(trials.model)
        entry = self.context.entry = PassEntry("trial", {}, "lossy")
        self.quantizer.run(quantized, self.context)
        stage = Stage(quantized, self.reference.samples)
        count = range(len(self.reference.samples))
        pairs = [(self.reference.outputs(i), stage.outputs(i)) for i in count]
        rows = np.concatenate([row_losses(*pair) for pair in pairs])
        nbytes = sum(site.bytes_after for site in entry.sites)
        bits = 8 * nbytes / max(1, self.weights)
        return Outcome(title, trials, tuple(told), compare_outputs(pairs), rows, bits)
