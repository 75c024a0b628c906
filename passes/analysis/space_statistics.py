"""Statistics of the activations in channel spaces, over sample inputs; memory stays bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis import outliers
from bitfold.passes.analysis.sampled_values import values_on
from bitfold.passes.analysis.space_places import Place, places_before_norms, read_places
from bitfold.passes.analysis.spaces.space import Space
from bitfold.passes.core.context import Feeds

TOKENS = 512
"""Tokens of a place on which utilization is measured, at most: it takes their products."""


@dataclass(frozen=True)
class SpaceStatistics:
    """What the activations in a space are like; see :mod:`.outliers` for each figure.

    Attributes:
        places: values that linear ops read; figures are taken within each of a place's tokens.
        tokens: tokens (or pixels) seen at each.
        kurtosis_median: over tokens and places; so are the next three.
        utilization: of the median place, on at most :data:`TOKENS` of its tokens.
        massive: massive activations over tokens and places: in the stream in front of norms, or,
            where there are none, in what is read.
        massive_channels: how many of them each channel has, the most first.
    """

    places: int
    tokens: int
    kurtosis_median: float
    kurtosis_max: float
    peak_ratio_median: float
    peak_ratio_max: float
    utilization: float
    massive: int
    massive_channels: dict[int, int]


def measure_spaces(
    model: ir.Model, spaces: Sequence[Space], samples: Sequence[Feeds]
) -> list[SpaceStatistics | None]:
    """The statistics of each space; None for those that no linear op reads, and without samples.

    The model runs a few times on each sample (:func:`.values_on`).
    """
    if not samples:
        return [None] * len(spaces)
    read = [list(read_places(space)) for space in spaces]
    norms = [
        places_before_norms(space) if places else []
        for space, places in zip(spaces, read, strict=True)
    ]
    every = [place for group in (*read, *norms) for place in group]
    figures = _measure(model, list(dict.fromkeys(every)), samples)
    return [
        _joined([figures[place] for place in places], [figures[place] for place in before])
        for places, before in zip(read, norms, strict=True)
    ]


def pooled(each: Sequence[SpaceStatistics]) -> SpaceStatistics:
    """Of several spaces as one: the highest of them, and the median of their medians.

    Channels of several spaces have nothing in common: massive ones are named for one space alone.
    """
    return SpaceStatistics(
        places=sum(s.places for s in each),
        tokens=max(s.tokens for s in each),
        kurtosis_median=float(np.median([s.kurtosis_median for s in each])),
        kurtosis_max=max(s.kurtosis_max for s in each),
        peak_ratio_median=float(np.median([s.peak_ratio_median for s in each])),
        peak_ratio_max=max(s.peak_ratio_max for s in each),
        utilization=float(np.median([s.utilization for s in each])),
        massive=sum(s.massive for s in each),
        massive_channels=each[0].massive_channels if len(each) == 1 else {},
    )


def kurtosis_at(
    model: ir.Model, places: Sequence[Sequence[Place]], samples: Sequence[Feeds]
) -> list[np.ndarray]:
    """Of each group of places, the excess kurtosis of each token at each place."""
    found = {place: [np.empty(0)] for group in places for place in group}
    by_value = _by_value(found)
    for _, runs in values_on(model, list(by_value), samples):
        for arrays in runs:
            for name, array in arrays.items():
                for place in by_value[name]:
                    found[place].append(outliers.excess_kurtosis(place.rows(array)))
    tokens = {place: np.concatenate(parts) for place, parts in found.items()}
    return [np.concatenate([np.empty(0), *(tokens[each] for each in group)]) for group in places]


@dataclass
class _Figures:
    """Of one place, over the samples."""

    place: Place
    tokens: int = 0
    kurtosis: list[np.ndarray] = field(default_factory=list)
    peaks: list[np.ndarray] = field(default_factory=list)
    massive: Counter[int] = field(default_factory=Counter)
    kept: list[np.ndarray] = field(default_factory=list)
    utilization: float = 1.0

    def add(self, array: np.ndarray, keep: int) -> None:
        """Look at one sample's array, and keep so many of its tokens."""
        rows = self.place.rows(array)
        if not rows.size:
            return
        self.tokens += len(rows)
        self.kurtosis.append(outliers.excess_kurtosis(rows).astype(np.float32))
        self.peaks.append(outliers.peak_ratio(rows).astype(np.float32))
        columns = Counter(outliers.massive(rows)[:, 1].tolist())
        self.massive.update({self.place.channel(each): n for each, n in columns.items()})
        picked = np.linspace(0, len(rows) - 1, min(keep, len(rows))).astype(int)
        self.kept.append(rows[picked])

    def finish(self) -> None:
        """Measure utilization, and let go of the tokens that it took."""
        if self.kept:
            self.utilization = outliers.utilization(np.concatenate(self.kept))
        self.kept = []


def _measure(
    model: ir.Model, places: Sequence[Place], samples: Sequence[Feeds]
) -> dict[Place, _Figures]:
    by_value = _by_value(places)
    figures = {place: _Figures(place) for place in places}
    keep = -(-TOKENS // len(samples))
    for names, runs in values_on(model, list(by_value), samples):
        for arrays in runs:
            for name, array in arrays.items():
                for place in by_value[name]:
                    figures[place].add(array, keep)
        for place in (place for name in names for place in by_value[name]):
            figures[place].finish()
    return figures


def _by_value(places: Iterable[Place]) -> Mapping[str, list[Place]]:
    found: dict[str, list[Place]] = {}
    for place in places:
        found.setdefault(place.value, []).append(place)
    return found


def _joined(read: Sequence[_Figures], before: Sequence[_Figures]) -> SpaceStatistics | None:
    read = [each for each in read if each.tokens]
    if not read:
        return None
    kurtosis = np.concatenate([part for each in read for part in each.kurtosis])
    peaks = np.concatenate([part for each in read for part in each.peaks])
    massive: Counter[int] = sum((each.massive for each in before or read), Counter())
    return SpaceStatistics(
        places=len(read),
        tokens=max(each.tokens for each in read),
        kurtosis_median=float(np.median(kurtosis)),
        kurtosis_max=float(kurtosis.max()),
        peak_ratio_median=float(np.median(peaks)),
        peak_ratio_max=float(peaks.max()),
        utilization=float(np.median([each.utilization for each in read])),
        massive=massive.total(),
        massive_channels=dict(massive.most_common()),
    )
