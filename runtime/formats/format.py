"""A format: how many bits a code has and which small number each code stands for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

FEW_LEVELS = 64
"""Up to here comparing with every border is faster than searching for the nearest level."""


@dataclass(frozen=True)
class Format:
    """A low-bit number format: codes of ``bits`` bits and a table that maps them to levels.

    A weight is then ``scale * (table[code] - zero_point)``.

    Attributes:
        name: how schemes and recipes call it.
        bits: bits a code takes, 1 to 8.
        levels: the numbers that the format uses, in increasing order: integers within int8, or
            any float32 values.
        linear: whether level ``v`` has code ``v + 2 ** (bits - 1)``, so that the kernels need
            no table.
        codes: the code of each level where a standard fixes it; else level i has code i.
    """

    name: str
    bits: int
    levels: tuple[int, ...] | tuple[float, ...]
    linear: bool = True
    codes: tuple[int, ...] = ()

    @property
    def lowest(self) -> float:
        """The smallest level."""
        return self.levels[0]

    @property
    def highest(self) -> float:
        """The largest level."""
        return self.levels[-1]

    @property
    def integral(self) -> bool:
        """Whether every level is an integer within int8, which int8 inputs can be multiplied by."""
        return all(level == int(level) and -128 <= level <= 127 for level in self.levels)

    def table(self) -> np.ndarray | None:
        """The table [2**bits] that the kernels look codes up in; None when linear.

        int8 where the levels are integral, else float32.  A code that stands for no level, such as
        a minus zero, has 0.
        """
        if self.linear:
            return None
        table = np.zeros(1 << self.bits, np.int8 if self.integral else np.float32)
        table[self._codes] = self.levels
        return table

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Codes (uint8) of the levels nearest to ``values``.

        Ties go to the even integer where the format is linear, else to the even code.
        """
        if self.linear:
            nearest = np.clip(np.rint(values), self.lowest, self.highest)
            return (nearest + (1 << (self.bits - 1))).astype(np.uint8)
        return self._codes[self._index(values)]

    def nearest(self, values: np.ndarray) -> np.ndarray:
        """The levels nearest to ``values``, float32."""
        if self.linear:
            return np.clip(np.rint(values), self.lowest, self.highest)
        found: np.ndarray = np.asarray(self.levels, np.float32)[self._index(values)]
        return found

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The levels that ``codes`` stand for: int16, so that differences fit, or float32."""
        table = self.table()
        if table is None:
            return codes.astype(np.int16) - (1 << (self.bits - 1))
        return table[codes].astype(np.int16 if table.dtype == np.int8 else np.float32)

    @cached_property
    def _codes(self) -> np.ndarray:
        return np.asarray(self.codes or range(len(self.levels)), np.uint8)

    @cached_property
    def _borders(self) -> np.ndarray:
        """The largest float32 that goes to each level but the last."""
        levels = np.asarray(self.levels, np.float64)
        middles = ((levels[1:] + levels[:-1]) / 2).astype(np.float32)
        below = np.nextafter(middles, np.float32(-np.inf))
        return np.where(self._codes[1:] % 2 == 0, below, middles)

    def _index(self, values: np.ndarray) -> np.ndarray:
        """The index of the level nearest to each value."""
        if len(self.levels) > FEW_LEVELS:
            return np.searchsorted(self._borders, values)
        index = np.zeros(values.shape, np.uint8)
        for border in self._borders:
            index += values > border
        return index
