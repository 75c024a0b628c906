"""The report: what each pass did, what it skipped and why, its time, its measured effect."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Divergence:
    """How far a model's outputs moved, over all samples.

    Attributes:
        sqnr_db: signal to quantization noise of the worst output, in decibels (inf: equal).
        cosine: lowest mean cosine over the float outputs.
        kl: mean Kullback-Leibler divergence in nats of the logits, where the model has any.
        top1: share of positions with the same arg-max of the logits, where it has any.
        max_error: largest absolute difference over the largest absolute reference value.
    """

    sqnr_db: float
    cosine: float
    max_error: float
    kl: float | None = None
    top1: float | None = None

    @property
    def distance(self) -> float:
        """One figure, 0 where nothing moved: the KL of logits, or what the cosine lacks to 1."""
        return 1 - self.cosine if self.kl is None else self.kl


@dataclass
class Note:
    """One site and what happened to it.

    Attributes:
        text: what happened, or why nothing did, in words that sites may have in common.
        detail: what is this site's own: its weight's shape, say.
    """

    site: str
    text: str
    detail: str = ""


@dataclass
class SiteRecord:
    """How one site was quantized, and what its weight lost by it.

    Attributes:
        kind: the site's kind, such as ``matmul`` or ``conv``.
        rows: output channels.
        columns: inputs of one output.
        scheme: the scheme, as people write it.
        bytes_before: the float weight's size; 0 where another site has counted it.
        bytes_after: size of codes, scales and zero points in bitfold's layout, padding included;
            0 likewise.
        sqnr_db: signal to quantization noise of the weight, in decibels (inf: nothing lost).
    """

    site: str
    kind: str
    rows: int
    columns: int
    scheme: str
    bytes_before: int
    bytes_after: int
    sqnr_db: float


@dataclass
class OpCost:
    """What the nodes of one operator cost, in the original model and in the result.

    Times are from a profile of one run on the first sample; None where nothing was run. ORT fuses
    operators before it runs them, so that one may have a time and no nodes, or the reverse.

    Attributes:
        op: the operator, with its domain unless it is the standard one.
        nodes_before: nodes of the original model.
        bytes_before: weights that these nodes read; a shared weight counts once.
    """

    op: str
    nodes_before: int = 0
    nodes: int = 0
    bytes_before: int = 0
    bytes: int = 0
    seconds_before: float | None = None
    seconds: float | None = None


@dataclass
class ValueDivergence:
    """How far one value inside the result is from the same value before the first lossy pass.

    Attributes:
        value: the value's name in both models.
        node: the node of the result that computes it.
        op: that node's operator.
    """

    value: str
    node: str
    op: str
    sqnr_db: float
    cosine: float


@dataclass
class PassEntry:
    """One pass's part of the report.

    Attributes:
        status: ``applied``, ``unchanged`` or ``rolled-back``.
        seconds: time that the pass took.
        verify_seconds: time that checking its promise took.
        sites: the sites that a quantizing pass quantized, in its order.
        culprit: why an exact pass was rolled back: the first node whose output differs.
    """

    name: str
    options: dict[str, Any]
    promise: str
    status: str = "unchanged"
    seconds: float = 0.0
    verify_seconds: float = 0.0
    changes: list[Note] = field(default_factory=list)
    skips: list[Note] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sites: list[SiteRecord] = field(default_factory=list)
    divergence: Divergence | None = None
    culprit: str | None = None

    def changed(self, site: str, text: str) -> None:
        """Record that the pass changed ``site``, and how."""
        self.changes.append(Note(site, text))

    def skipped(self, site: str, reason: str, detail: str = "") -> None:
        """Record that the pass left ``site`` alone, and why.

        Args:
            reason: without names or figures of the site, so that sites can be listed by it.
            detail: those.
        """
        self.skips.append(Note(site, reason, detail))

    def note(self, text: str) -> None:
        """Record something about the whole pass, such as an assumption it makes."""
        self.notes.append(text)


@dataclass
class Report:
    """What a pipeline did to a model.

    Attributes:
        notes: what holds for the whole run, such as what the checks compare with.
        timings: for each kind of site, what its alternatives took alone; empty unless the fastest
            were looked for.
        total: the result's divergence from the original model; None where nothing was run.
        relative_time: time of a run of the result over that of the original model, on the first
            sample and this machine; None where they were not timed.
        seconds: time of the whole run, checks included.
        ops: size and time by operator; empty unless it was asked for.
        values: divergence along the depth, in the result's order; empty likewise.
        unmeasured: why times or values are missing, by what is missing.
    """

    recipe: str
    seed: int
    versions: dict[str, str]
    passes: list[PassEntry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    timings: list[str] = field(default_factory=list)
    total: Divergence | None = None
    relative_time: float | None = None
    seconds: float = 0.0
    ops: list[OpCost] = field(default_factory=list)
    values: list[ValueDivergence] = field(default_factory=list)
    unmeasured: dict[str, str] = field(default_factory=dict)

    @property
    def rolled_back(self) -> list[PassEntry]:
        """Exact passes that broke their promise: the result was made without them."""
        return [entry for entry in self.passes if entry.status == "rolled-back"]

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data, ready for JSON."""
        return asdict(self)
