"""A format: how many bits a code has and which small integer each code stands for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Format:
    """A low-bit number format: codes of ``bits`` bits and a table that maps them to integers.

    A weight is then ``scale * (table[code] - zero_point)``.

    Attributes:
        name: how schemes and recipes call it.
        bits: bits a code takes, 1 to 8.
        levels: the integers that the format uses, in increasing order, each within int8.
        linear: whether level ``v`` has code ``v + 2 ** (bits - 1)``, so that the kernels need
            no table.
    """

    name: str
    bits: int
    levels: tuple[int, ...]
    linear: bool = True

    @property
    def lowest(self) -> int:
        """The smallest level."""
        return self.levels[0]

    @property
    def highest(self) -> int:
        """The largest level."""
        return self.levels[-1]

    def table(self) -> np.ndarray | None:
        """The table int8 [2**bits] that the kernels look codes up in; None when linear."""
        if self.linear:
            return None
        table = np.zeros(1 << self.bits, np.int8)
        table[: len(self.levels)] = self.levels
        return table

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Codes (uint8) of the levels nearest to ``values``; ties go to the even integer."""
        if self.linear:
            nearest = np.clip(np.rint(values), self.lowest, self.highest)
            return (nearest + (1 << (self.bits - 1))).astype(np.uint8)
        levels = np.asarray(self.levels, np.float32)
        middles = (levels[1:] + levels[:-1]) / 2
        return np.searchsorted(middles, values).astype(np.uint8)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The integers (int16, so that differences fit) that ``codes`` stand for."""
        table = self.table()
        if table is None:
            return codes.astype(np.int16) - (1 << (self.bits - 1))
        return table[codes].astype(np.int16)
