"""Statistics of the activations in channel spaces, over sample inputs; memory stays bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis import outliers
from bitfold.passes.analysis.spaces.kinds import NORMS
from bitfold.passes.analysis.spaces.space import Space
from bitfold.passes.core.context import Feeds
from bitfold.runtime.execution import open_session

BUDGET = 96 << 20
"""Bytes of activations and sums that are held at once."""


@dataclass(frozen=True)
class Tap:
    """A value inside the graph that holds channels of a space.

    Attributes:
        value: its name.
        axis: of the channels; all others are tokens.
        columns: the channels that are the space's; empty for all.
        inside: in front of a norm, where massive activations live; else what linear ops read.
    """

    value: str
    axis: int
    columns: tuple[int, ...] = ()
    inside: bool = False

    def rows(self, array: np.ndarray) -> np.ndarray:
        """[tokens, channels] of the value's array."""
        rows = np.moveaxis(array, self.axis, -1).reshape(-1, array.shape[self.axis])
        return rows[:, list(self.columns)] if self.columns else rows


@dataclass
class SpaceStatistics:
    """What the activations in a space are like; see :mod:`.outliers` for each figure.

    Attributes:
        tokens: tokens (or pixels) seen at each place.
        places: values that readers read, each measured by itself.
        kurtosis_median: over tokens and places, and so on.
        utilization: of the median place.
        massive: massive activations in the stream in front of norms, and where norms are none, in
            what is read.
        massive_channels: channels that have any, the most frequent first, at most eight.
    """

    tokens: int = 0
    places: int = 0
    kurtosis_median: float = 0.0
    kurtosis_max: float = 0.0
    peak_ratio_median: float = 0.0
    peak_ratio_max: float = 0.0
    utilization: float | None = None
    massive: int = 0
    massive_channels: list[int] = field(default_factory=list)


def taps_of(space: Space) -> list[Tap]:
    """What linear ops read of a space, and the stream in front of its norms."""
    found = []
    for held in space.readers:
        op = held.port.op
        inside = np.flatnonzero(held.block.ravel() >= 0)
        columns = tuple(inside.tolist()) if inside.size < held.block.size else ()
        found.append(Tap(str(op.inputs[0].name), 1 if op.op_type == "Conv" else -1, columns))  # type: ignore[union-attr]
    for node in space.nodes:
        if node.op_type in NORMS and node.inputs[0] is not None:
            found.append(Tap(str(node.inputs[0].name), -1, inside=True))
    return list(dict.fromkeys(found))


def measure_spaces(
    model: ir.Model,
    spaces: Sequence[Space],
    samples: Sequence[Feeds],
    utilization: bool = True,
) -> list[SpaceStatistics | None]:
    """The statistics of each space; None for those that no linear op reads.

    The model runs on every sample once for each group of places that fits in :data:`BUDGET`.

    Args:
        utilization: measure that too: it takes products of all channels.
    """
    taps = [taps_of(space) if space.readers else [] for space in spaces]
    measured = dict(_measure(model, _distinct(taps), samples, utilization))
    return [_joined([measured[tap] for tap in each]) if each else None for each in taps]


@dataclass
class _Figures:
    tap: Tap
    kurtosis: list[np.ndarray] = field(default_factory=list)
    peaks: list[np.ndarray] = field(default_factory=list)
    massive: Counter[int] = field(default_factory=Counter)
    count: int = 0
    total: np.ndarray | None = None
    products: np.ndarray | None = None
    utilization: float | None = None

    def add(self, array: np.ndarray, products: bool) -> None:
        rows = self.tap.rows(array)
        if not rows.size:
            return
        self.massive.update(outliers.massive(rows)[:, 1].tolist())
        self.count += len(rows)
        if self.tap.inside:
            return
        self.kurtosis.append(outliers.excess_kurtosis(rows).astype(np.float32))
        self.peaks.append(outliers.peak_ratio(rows).astype(np.float32))
        if products:
            wide = rows.astype(np.float64)
            total, square = wide.sum(axis=0), wide.T @ wide
            self.total = total if self.total is None else self.total + total
            self.products = square if self.products is None else self.products + square

    def finish(self) -> None:
        if self.total is not None and self.products is not None:
            self.utilization = outliers.utilization(self.count, self.total, self.products)
        self.total = self.products = None


def _measure(
    model: ir.Model, taps: Sequence[Tap], samples: Sequence[Feeds], products: bool
) -> Iterator[tuple[Tap, _Figures]]:
    for group in _groups(model, taps, samples[0], products) if taps else []:
        figures = {tap: _Figures(tap) for tap in group}
        names = list(dict.fromkeys(tap.value for tap in group))
        session = open_session(model, outputs=names, optimize=False)
        for feeds in samples:
            found = session.run(feeds)
            for tap, figure in figures.items():
                figure.add(found[tap.value], products)
        for tap, figure in figures.items():
            figure.finish()
            yield tap, figure


def _groups(
    model: ir.Model, taps: Sequence[Tap], feeds: Feeds, products: bool
) -> Iterator[list[Tap]]:
    """Taps in groups of which each fits in the budget, by the sizes on one sample."""
    shapes = _shapes(model, list(dict.fromkeys(tap.value for tap in taps)), feeds)
    group: list[Tap] = []
    held = 0
    for tap in taps:
        shape = shapes[tap.value]
        size = 4 * int(np.prod(shape)) + (8 * int(shape[tap.axis]) ** 2 if products else 0)
        if group and held + size > BUDGET:
            yield group
            group, held = [], 0
        group.append(tap)
        held += size
    yield group


def _shapes(model: ir.Model, names: Sequence[str], feeds: Feeds) -> Mapping[str, np.ndarray]:
    probe = model.clone()
    values = {value.name: value for value in probe.graph.inputs}
    values |= {value.name: value for node in probe.graph for value in node.outputs}
    outputs = []
    for index, name in enumerate(names):
        node = ir.node("Shape", [values[name]])
        node.outputs[0].name = f"bitfold.shape.{index}"
        node.outputs[0].dtype = ir.DataType.INT64
        probe.graph.append(node)
        outputs.append(node.outputs[0])
    probe.graph.outputs.extend(outputs)
    shapes = [str(value.name) for value in outputs]
    found = open_session(probe, outputs=shapes, optimize=False).run(feeds)
    return {name: found[shape] for name, shape in zip(names, shapes, strict=True)}


def _joined(figures: Sequence[_Figures]) -> SpaceStatistics:
    read = [each for each in figures if not each.tap.inside and each.count]
    if not read:
        return SpaceStatistics()
    kurtosis = np.concatenate([part for each in read for part in each.kurtosis])
    peaks = np.concatenate([part for each in read for part in each.peaks])
    used = [each.utilization for each in read if each.utilization is not None]
    inside = [each for each in figures if each.tap.inside] or read
    massive: Counter[int] = sum((each.massive for each in inside), Counter())
    return SpaceStatistics(
        tokens=max(each.count for each in read),
        places=len(read),
        kurtosis_median=float(np.median(kurtosis)),
        kurtosis_max=float(kurtosis.max()),
        peak_ratio_median=float(np.median(peaks)),
        peak_ratio_max=float(peaks.max()),
        utilization=float(np.median(used)) if used else None,
        massive=massive.total(),
        massive_channels=[channel for channel, _ in massive.most_common(8)],
    )


def _distinct(taps: Sequence[Sequence[Tap]]) -> list[Tap]:
    return list(dict.fromkeys(tap for each in taps for tap in each))
