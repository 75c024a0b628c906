"""What `inspect --spaces` says of each channel space: what may be done to it, and why not more."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import onnx_ir as ir

from bitfold.passes.analysis.attention_sinks import Sinks
from bitfold.passes.analysis.space_statistics import SpaceStatistics
from bitfold.passes.analysis.spaces.kinds import QUERY_KEY
from bitfold.passes.analysis.spaces.space import Held, Space
from bitfold.passes.analysis.spaces.survey import CHANGES, SurveyedSpace
from bitfold.passes.analysis.spaces.symmetry import ALL, CENTER, ROTATE, Symmetry
from bitfold.passes.analysis.spaces.trace import Kind, Role
from bitfold.passes.transform.ln_to_rms import LnToRms

_REMEDY = re.compile(r"\(([a-z]+(?:-[a-z]+)+)")
"""A pass that a limit's reason names: it takes the limit away."""


@dataclass(frozen=True)
class Obstacle:
    """What keeps a space from a change.

    Attributes:
        op: an operator; empty where it is none.
        node: its name.
        reason: what it does.
    """

    op: str
    node: str
    reason: str

    def __str__(self) -> str:
        return f"{self.op} {self.node} {self.reason}" if self.op else self.reason


UNREAD = Obstacle("", "", "no linear op reads it")
UNWRITTEN = Obstacle("", "", "no linear op writes it")


@dataclass(frozen=True)
class Verdict:
    """Whether one change of coordinates may be made to a space.

    Attributes:
        word: ``yes``; ``yes, 3 parts`` or ``2 of 3 parts``, where the space falls into parts that
            change each by itself; ``after PASS``, which takes away what is in the way;
            ``online``, by an operator in front of the readers, or behind what gives the channels
            to center; ``no``; empty where nothing asks for it.
        why: what is in the way.
    """

    word: str
    why: tuple[Obstacle, ...] = ()


@dataclass(frozen=True)
class SpaceInfo:
    """One channel space.

    Attributes:
        name: of its first writer, or else of whatever holds it first.
        kind: what it is, told from the structure.
        size: channels in a block.
        blocks: heads, say, that are changed each by itself.
        writers: names of the linear ops whose outputs are its channels.
        readers: names of those that contract over them.
        carriers: operators in between, counted.
        verdicts: by ``rotate``, ``scale``, ``permute`` and ``center``.
        ends: nodes beyond which it cannot be followed.
        caches: inputs that hold it from run to run.
        statistics: of its activations on samples; None without samples, and where no linear op
            reads it.
    """

    name: str
    kind: str
    size: int
    blocks: int
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    carriers: dict[str, int]
    verdicts: dict[str, Verdict]
    ends: tuple[Obstacle, ...]
    caches: tuple[str, ...]
    statistics: SpaceStatistics | None = None


@dataclass
class SpacesReport:
    """The channel spaces of a model.

    Attributes:
        nodes: nodes of the graph that was looked at.
        prepared: the exact passes that ran before, in memory.
        samples: sets of inputs that activations were measured on.
        sinks: tokens that draw attention whatever they say; None without samples.
    """

    nodes: int
    prepared: str
    spaces: list[SpaceInfo] = field(default_factory=list)
    samples: int = 0
    sinks: Sinks | None = None

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data, ready for JSON."""
        return asdict(self)


def space_info(surveyed: SurveyedSpace, statistics: SpaceStatistics | None = None) -> SpaceInfo:
    """A space in words."""
    space = surveyed.space
    return SpaceInfo(
        space.name,
        surveyed.kind,
        space.size,
        space.blocks,
        _names(space.writers),
        _names(space.readers),
        dict(space.carriers.most_common()),
        {word: _verdict(surveyed, word) for word in CHANGES},
        tuple(dict.fromkeys(_obstacle(n, why) for lost, n, why in space.limits if lost == ALL)),
        tuple(str(held.state.given.name) for held in space.states),
        statistics,
    )


def _verdict(surveyed: SurveyedSpace, word: str) -> Verdict:
    symmetry, parts = CHANGES[word], surveyed.parts[word]
    wanted = [part for part in parts if _worthwhile(part, symmetry, surveyed.kind)]
    if not wanted and symmetry is CENTER:
        return Verdict("")
    if not wanted:
        return Verdict("no", (_why_not(parts[0], symmetry) or (UNREAD,))[:1])
    refused = [why for part in wanted if (why := _why_not(part, symmetry))]
    shown = tuple(dict.fromkeys(why[0] for why in refused))
    allowed = len(wanted) - len(refused)
    if not refused:
        return Verdict("yes" if allowed == 1 else f"yes, {allowed} parts")
    if allowed:
        return Verdict(f"{allowed} of {len(wanted)} parts", shown)
    if symmetry is CENTER and all(_centered_online(surveyed, part) for part in wanted):
        return Verdict("online", shown)
    # What a norm splits is one space again when the remedy has been taken.
    limits = [reason for part in parts for lost, _, reason in part.limits if lost & symmetry]
    remedies = [_REMEDY.search(reason) for reason in limits]
    if all(remedies):
        names = dict.fromkeys(found[1] for found in remedies if found)
        return Verdict(f"after {', '.join(names)}" if names else "no", shown)
    hard = [
        _obstacle(node, reason)
        for part in parts
        for lost, node, reason in part.limits
        if lost & symmetry and not _REMEDY.search(reason)
    ]
    shown = tuple(dict.fromkeys([*hard[:1], *shown]))
    matmuls = any(h.port.op.op_type in ("MatMul", "Gemm") for p in wanted for h in p.readers)
    return Verdict("online" if symmetry is ROTATE and matmuls else "no", shown)


def _worthwhile(part: Space, symmetry: Symmetry, kind: str) -> bool:
    """Whether the change would do something for whoever quantizes.

    It changes what linear ops read, or queries and keys; centering, what a LayerNorm reads.
    """
    if symmetry is CENTER:
        ends = [held.port for held in part.held if held.port.role is Role.READ]
        return bool(part.writers) and any(e.op.op_type == "LayerNormalization" for e in ends)
    return bool(part.readers) or kind == QUERY_KEY


def _centered_online(surveyed: SurveyedSpace, part: Space) -> bool:
    """Whether ``ln-to-rms`` would center it, with one operator as the model runs."""
    parts = zip(surveyed.parts["center"], surveyed.entered, strict=True)
    entered = next(count for each, count in parts if each is part)
    norms = {held.port.op for held in part.held if held.port.op.op_type == "LayerNormalization"}
    return entered is not None and entered <= min(LnToRms().borders, len(norms) - 1)


def _why_not(part: Space, symmetry: Symmetry) -> tuple[Obstacle, ...]:
    found = [_obstacle(node, reason) for lost, node, reason in part.limits if lost & symmetry]
    kinds = (Kind.WEIGHT,) if symmetry is ROTATE else (Kind.WEIGHT, Kind.GAIN)
    written = any(h.port.role is Role.WRITE and h.port.kind in kinds for h in part.held)
    return tuple(dict.fromkeys(found or ([] if written else [UNWRITTEN])))


def _obstacle(node: ir.Node | None, reason: str) -> Obstacle:
    return (
        Obstacle("", "", reason) if node is None else Obstacle(node.op_type, name_of(node), reason)
    )


def name_of(node: ir.Node) -> str:
    """A node's name, or its first output's."""
    return node.name or str(node.outputs[0].name)


def _names(helds: Iterable[Held]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name_of(held.port.op) for held in helds))
