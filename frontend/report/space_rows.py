"""What the picture of channel spaces shows: rows for operators, bands for spaces, and repeats."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from bitfold.frontend.space_lines import SpaceLine, fold, told_statistics
from bitfold.frontend.space_report import SpaceInfo, name_of
from bitfold.passes.analysis.sites import is_constant, site_of
from bitfold.passes.analysis.spaces.survey import SurveyedSpace
from bitfold.passes.analysis.spaces.trace import Kind

PASSED = (
    *("Reshape", "Transpose", "Cast", "Identity", "Squeeze", "Unsqueeze", "Expand", "Flatten"),
    *("Dropout", "Pad"),
)
"""Operators that only move channels: they get no row."""
LEAST = 6
"""Rows that leaving out repeats must save."""


@dataclass(frozen=True)
class Row:
    """An operator: numbers of the bands that it reads, writes and carries on."""

    at: int
    label: str
    detail: str
    told: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    carries: tuple[int, ...]
    linear: bool


@dataclass(frozen=True)
class Band:
    """A space: its lane, its first and last row, and what may be done to it."""

    kind: str
    label: str
    may: str
    told: str
    lane: int
    width: float
    first: int
    last: int


@dataclass
class Picture:
    """All of it; `repeats` are first and last row, and how often these come."""

    rows: list[Row] = field(default_factory=list)
    bands: list[Band] = field(default_factory=list)
    repeats: list[tuple[int, int, str]] = field(default_factory=list)
    lines: list[SpaceLine] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)


@dataclass
class _Touch:
    reads: list[int] = field(default_factory=list)
    writes: list[int] = field(default_factory=list)
    carries: list[int] = field(default_factory=list)

    def all(self) -> list[int]:
        return [*self.reads, *self.writes, *self.carries]

    def rename(self, name: Callable[[int], int]) -> None:
        self.reads, self.writes, self.carries = (
            [name(number) for number in group] for group in (self.reads, self.writes, self.carries)
        )


def lay_out(
    model: ir.Model,
    surveyed: Sequence[SurveyedSpace],
    spaces: Sequence[SpaceInfo],
    everything: bool = False,
) -> Picture:
    """Rows and bands of a model's spaces.

    Args:
        spaces: the same spaces, in words.
        everything: draw each layer, not the first of those that repeat.
    """
    touched = _touched(surveyed)
    nodes = [node for node in model.graph if node in touched]
    looks = {node: _look(node, touched[node], spaces) for node in nodes}
    kept, repeats, copies = _without_repeats([looks[node] for node in nodes], everything)
    _hand_over([(touched[nodes[first]], touched[nodes[last]]) for first, last in copies], touched)
    nodes = [nodes[index] for index in kept]
    spans: dict[int, list[int]] = defaultdict(list)
    for at, node in enumerate(nodes):
        for number in touched[node].all():
            spans[number].append(at)
    shown = sorted(spans, key=lambda number: (min(spans[number]), number))
    place = {number: index for index, number in enumerate(shown)}
    lanes = _lanes([(min(spans[number]), max(spans[number])) for number in shown])
    picture = Picture(repeats=repeats, lines=fold(spaces))
    for number, lane in zip(shown, lanes, strict=True):
        space = spaces[number]
        channels = SpaceLine((space,)).channels
        width = min(30.0, 8 + 1.9 * math.log2(space.size * space.blocks))
        label = f"{space.kind} {channels}"
        first, last = min(spans[number]), max(spans[number])
        picture.bands.append(
            Band(space.kind, label, _may(space), told(space), lane, width, first, last)
        )
    for at, node in enumerate(nodes):
        touch = touched[node]
        reads, writes, carries = (
            tuple(dict.fromkeys(place[number] for number in group))
            for group in (touch.reads, touch.writes, touch.carries)
        )
        linear = bool(touch.reads or touch.writes)
        label, detail = _label(node), _detail(node)
        name = f"{node.op_type} {name_of(node)}"
        picture.rows.append(Row(at, label, detail, name, reads, writes, carries, linear))
    words = ("rotate", "scale", "permute", "center")
    picture.changes = [w for w in words if any(space.verdicts[w].word for space in spaces)]
    return picture


def _may(space: SpaceInfo) -> str:
    """The changes that are open to a space, in a few words."""
    open_ = [
        f"{change} {verdict.word.removeprefix('yes').replace(', ', 'in ')}".rstrip()
        for change, verdict in space.verdicts.items()
        if verdict.word not in ("", "no")
    ]
    return ", ".join(open_) or "stays as it is"


def told(space: SpaceInfo) -> str:
    """What a pointer that rests on a band shows."""
    line = SpaceLine((space,))
    counts = f"{len(space.writers)} writers, {len(space.readers)} readers"
    verdicts = [f"{change}: {v.word}" for change, v in space.verdicts.items() if v.word]
    parts = [f"{space.kind}, {line.channels} channels", space.name, counts, *verdicts]
    figures = told_statistics(space.statistics) if space.statistics is not None else []
    return "\n".join([*parts, *line.why_not(), *figures])


def _touched(surveyed: Sequence[SurveyedSpace]) -> dict[ir.Node, _Touch]:
    found: dict[ir.Node, _Touch] = defaultdict(_Touch)
    for number, each in enumerate(surveyed):
        space = each.space
        for held in space.writers:
            found[held.port.op].writes.append(number)
        for held in space.readers:
            found[held.port.op].reads.append(number)
        ends = {held.port.op for held in (*space.writers, *space.readers)}
        bend = [node for lost, node, _ in space.limits if node is not None and lost]
        deep = [held.port.op for held in space.held if held.port.kind is Kind.GAIN]
        for node in dict.fromkeys([*space.nodes, *bend, *deep]):
            if node not in ends and node.op_type not in PASSED and not _shifts(node):
                found[node].carries.append(number)
    return found


def _shifts(node: ir.Node) -> bool:
    """Whether it only adds a constant."""
    active = [value for value in node.inputs if value is not None and not is_constant(value)]
    return node.op_type in ("Add", "Sub") and len(active) < 2


def _look(node: ir.Node, touch: _Touch, spaces: Sequence[SpaceInfo]) -> object:
    """Equal for nodes that look alike in the picture."""

    def seen(numbers: Sequence[int]) -> list[tuple[str, int, int]]:
        return [(spaces[n].kind, spaces[n].size, spaces[n].blocks) for n in numbers]

    ends = [seen(touch.reads), seen(touch.writes), seen(touch.carries)]
    return repr((node.op_type, _detail(node), ends))


def _hand_over(copies: Sequence[tuple[_Touch, _Touch]], touched: dict[ir.Node, _Touch]) -> None:
    """Let what a repeat's first copy writes be what its last one, which is left out, hands on."""
    names: dict[int, int] = {}

    def name(number: int) -> int:
        while number in names:
            number = names[number]
        return number

    for first, last in copies:
        for mine, other in zip(first.writes, last.writes, strict=True):
            if name(mine) != name(other):
                names[name(other)] = name(mine)
    for touch in touched.values():
        touch.rename(name)


def _without_repeats(
    looks: Sequence[object], everything: bool
) -> tuple[list[int], list[tuple[int, int, str]], list[tuple[int, int]]]:
    """Indices of the rows that are drawn, and which of these stand for several.

    Returns:
        Also, for each index of the latter, that of the same row of the last repeat.
    """
    names = {look: number for number, look in enumerate(dict.fromkeys(looks))}
    codes = np.array([names[look] for look in looks], int)
    kept: list[int] = []
    repeats: list[tuple[int, int, str]] = []
    copies: list[tuple[int, int]] = []

    def draw(start: int, stop: int) -> None:
        best = None if everything else _best_repeat(codes[start:stop])
        if best is None:
            kept.extend(range(start, stop))
            return
        first, period, times = best
        draw(start, start + first)
        top = len(kept)
        kept.extend(range(start + first, start + first + period))
        repeats.append((top, len(kept) - 1, f"comes {times} times"))
        copies.extend((index, index + period * (times - 1)) for index in kept[top:])
        draw(start + first + period * times, stop)

    draw(0, len(codes))
    return kept, repeats, copies


def _best_repeat(codes: np.ndarray) -> tuple[int, int, int] | None:
    """Start, period and number of the repeats that save most rows; None where none is worth it."""
    best, saved = None, LEAST - 1
    for period in range(1, min(len(codes) // 2, 400) + 1):
        alike = codes[period:] == codes[:-period]
        if np.count_nonzero(alike) <= saved:
            continue
        breaks = np.flatnonzero(~np.concatenate([[False], alike, [False]]))
        runs = np.diff(breaks) - 1
        longest = int(np.argmax(runs))
        times = int(runs[longest]) // period + 1
        if (times - 1) * period > saved:
            best, saved = (int(breaks[longest]), period, times), (times - 1) * period
    return best


def _lanes(spans: Sequence[tuple[int, int]]) -> list[int]:
    """A lane for each span, so that none overlap; spans come in the order of their starts."""
    free_from: list[int] = []
    lanes = []
    for first, last in spans:
        lane = next((i for i, free in enumerate(free_from) if free <= first), len(free_from))
        if lane == len(free_from):
            free_from.append(0)
        free_from[lane] = last + 1
        lanes.append(lane)
    return lanes


def _label(node: ir.Node) -> str:
    pieces = [piece for piece in name_of(node).split("/") if piece]
    if len(pieces) > 1 and pieces[-1].rstrip("_0123456789") == node.op_type:
        pieces.pop()
    text = "/".join(pieces[-2:])
    return text if len(text) <= 44 else f"…{text[-43:]}"


def _detail(node: ir.Node) -> str:
    site = site_of(node)
    if site is None:
        return node.op_type
    n, k = site.shape
    if site.kind == "gather":
        return f"{node.op_type} {n} x {k}"
    if site.conv is None:
        return f"{node.op_type} {k} to {n}"
    window = "x".join(map(str, site.conv.kernel))
    inputs = site.conv.channels
    deep = f", {site.conv.groups} groups" if site.conv.groups > 1 else ""
    return f"{node.op_type} {window}, {inputs} to {site.conv.n}{deep}"
