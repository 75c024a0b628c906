"""Spaces that repeat layer after layer, folded into one line with a count."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bitfold.frontend.figures import counted, number
from bitfold.frontend.space_report import Obstacle, SpaceInfo
from bitfold.passes.analysis.attention_sinks import Sinks
from bitfold.passes.analysis.space_statistics import SpaceStatistics, pooled

_NUMBER = re.compile(r"(\d+)")

NAMED = 4
"""Channels and tokens that are named, at most."""


@dataclass(frozen=True)
class SpaceLine:
    """Spaces that are alike but for the numbers in their nodes' names."""

    spaces: tuple[SpaceInfo, ...]

    @property
    def title(self) -> str:
        """The kind, and how often there is one: ``values per head, 30x``."""
        kind = self.spaces[0].kind
        return kind if len(self.spaces) == 1 else f"{kind}, {len(self.spaces)}x"

    @property
    def name(self) -> str:
        """The name; a glob for several."""
        return glob([space.name for space in self.spaces])

    @property
    def channels(self) -> str:
        """``576``; ``3 x 64`` for three heads."""
        first = self.spaces[0]
        return str(first.size) if first.blocks == 1 else f"{first.blocks} x {first.size}"

    @property
    def statistics(self) -> SpaceStatistics | None:
        """Of all of them; None where nothing was measured."""
        measured = [space.statistics for space in self.spaces if space.statistics is not None]
        return pooled(measured) if measured else None

    def why_not(self) -> list[str]:
        """What is in the way, each with the changes that it rules out."""
        found: dict[str, list[str]] = {}
        for change in self.spaces[0].verdicts:
            obstacles = [why for space in self.spaces for why in space.verdicts[change].why]
            for reason in _summary(obstacles):
                found.setdefault(reason, []).append(change)
        return [f"{', '.join(changes)}: {reason}" for reason, changes in found.items()]


def fold(spaces: Iterable[SpaceInfo]) -> list[SpaceLine]:
    """Lines of spaces that are alike, in the order of the first of each."""
    groups: dict[object, list[SpaceInfo]] = {}
    for space in spaces:
        groups.setdefault(_key(space), []).append(space)
    return [SpaceLine(tuple(group)) for group in groups.values()]


def glob(names: Sequence[str]) -> str:
    """A pattern that matches all of ``names``, which differ in their numbers alone."""
    pieces = [_NUMBER.split(name) for name in names]
    return "".join(
        column[0] if len(set(column)) == 1 else "*" for column in zip(*pieces, strict=True)
    )


def massive_in(found: SpaceStatistics) -> str:
    """How many massive activations there are, and in which channels: ``61 in 138, 290``."""
    where = _first([str(channel) for channel in found.massive_channels])
    return f"{found.massive} in {where}" if where else str(found.massive)


def told_statistics(found: SpaceStatistics) -> list[str]:
    """Statistics in words, a line for each figure."""
    kurtosis = number(found.kurtosis_median, 3), number(found.kurtosis_max, 3)
    peak_ratio = number(found.peak_ratio_median, 3), number(found.peak_ratio_max, 3)
    return [
        f"kurtosis within a token: {', at most '.join(kurtosis)}",
        f"largest over median magnitude: {', at most '.join(peak_ratio)}",
        f"utilization: {number(found.utilization, 3)}",
        f"massive activations: {massive_in(found)}",
    ]


def told_sinks(sinks: Sinks) -> str:
    """Which tokens are attention sinks, and in how many attentions; empty where there are none."""
    if not sinks.attentions:
        return ""
    looked = counted(sinks.attentions, "attention")
    if not sinks.tokens:
        return f"no attention sinks in {looked}"
    told = _first([f"token {place} in {times}" for place, times in sinks.tokens.items()])
    return f"attention sinks: {told} of {looked}"


def _first(names: Sequence[str]) -> str:
    more = ["..."] if len(names) > NAMED else []
    return ", ".join([*names[:NAMED], *more])


def _summary(obstacles: Iterable[Obstacle]) -> list[str]:
    """One text for each operator and reason, with the nodes that it is about."""
    groups: dict[tuple[str, str], list[Obstacle]] = {}
    for each in dict.fromkeys(obstacles):
        groups.setdefault((each.op, _plain(each.reason)), []).append(each)
    texts = []
    for (op, _), group in groups.items():
        alike = [e.node for e in group if _plain(e.node) == _plain(group[0].node)]
        more = f" (and {len(group) - len(alike)} more)" if len(group) > len(alike) else ""
        reason = glob([each.reason for each in group])
        texts.append(f"{op} {glob(alike)}{more} {reason}" if op else reason)
    return texts


def _plain(text: str) -> str:
    return _NUMBER.sub("0", text)


def _key(space: SpaceInfo) -> object:
    verdicts = [
        (change, verdict.word, [_plain(str(why)) for why in verdict.why])
        for change, verdict in space.verdicts.items()
    ]
    counts = (len(space.writers), len(space.readers), len(space.caches))
    return repr((_plain(space.name), space.kind, space.size, space.blocks, counts, verdicts))
