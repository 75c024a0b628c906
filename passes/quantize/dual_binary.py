"""A weight as two planes of signs, each with scales of its own: two bits, four free levels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from bitfold.passes.quantize.columns import Columns
from bitfold.passes.quantize.gptq import arranged, inverse_factor, round_columns
from bitfold.passes.quantize.rounding import QuantizedWeight
from bitfold.runtime.formats.scale_types import store_scales
from bitfold.runtime.formats.scheme import WeightScheme

FITS = 8
"""Times that a group's signs and scales are fitted to each other before its columns are rounded."""


def dual_binary(
    weight: np.ndarray,
    gram: np.ndarray,
    scheme: WeightScheme,
    ranges: str = "mse",
    size: int = 0,
) -> QuantizedWeight:
    """Quantize ``weight`` [N, K] as ``a * s + b * t``: signs s and t, scales a and b per group.

    This is the flexible dual binarization of DB-LLM (arXiv 2402.11960) without its training.  There
    the planes hold 0 and 1, and the levels 0, b, a and a + b lie to one side; with signs they are
    even about zero, as weights are, at the same two scales.  Signs and scales of a group are fitted
    to each other in closed form; the signs are then chosen by GPTQ, and coordinate descent moves
    both signs and scales.

    Four levels of one ratio for all groups are the format ``gauss2``: a single matmul, in half the
    time, whose groups can be half as long at the same bytes.  With GPTQ that lost less on the
    layers of SmolLM2 that were measured.

    Args:
        weight: finite.
        gram: mean of ``x x^T`` over the weight's inputs, f64[K, K]; the identity where they are not
            known.
        scheme: binary; says how scales are stored.
        ranges: not used; scales are the best ones for the signs.
        size: columns a group; by default the scheme's.

    Returns:
        The first plane, with the second as its ``plus``.
    """
    size = size or scheme.group_size(weight.shape[1])
    order, turned, damped = arranged(weight, gram, size)
    stored = store_scales(np.abs(turned).mean(0, keepdims=True), scheme.scale)
    planes = Planes(scheme, turned, damped.astype(np.float32), order, order // size, stored)
    round_columns(planes, inverse_factor(damped).astype(np.float32), planes.choose)
    first = planes.result(size)
    scales = planes.stored.like(np.ascontiguousarray(planes.other_scales.T)).array
    second = replace(first, codes=planes.in_place(planes.other_codes), scales=scales)
    return replace(first, plus=second)


@dataclass
class Planes(Columns):
    """Columns of two planes; the first one's codes and scales are those of ``Columns``.

    Attributes:
        other_codes: uint8 [K, N], the second plane: 0 stands for -1.
        other_scales: float32 [G, N], its scales.
    """

    other_codes: np.ndarray = field(init=False)
    other_scales: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.other_codes = np.zeros_like(self.codes)
        self.other_scales = np.zeros_like(self.scales)

    def choose(self, group: int, wanted: np.ndarray) -> None:
        """Give a group the scales that fit ``wanted`` [columns, N] best."""
        a = np.abs(wanted).mean(0)
        b = np.abs(np.abs(wanted) - a).mean(0)
        for _ in range(FITS):
            first, second = nearest_signs(wanted, a, b)
            along = (first * wanted).mean(0), (second * wanted).mean(0)
            ones = np.ones_like(a)
            a, b = _solve(along, (ones, (first * second).mean(0), ones), (a, b))
        self.set_scales(group, a, b)

    def set_scales(self, group: int, a: np.ndarray, b: np.ndarray) -> None:
        """Give both planes of a group the scales nearest to ``a`` and ``b`` that their type has."""
        self.set_scale(group, a)
        self.other_scales[group] = self.stored.like(b).values()

    def round_column(self, j: int, wanted: np.ndarray) -> None:
        """Set column ``j`` to the signs nearest to ``wanted`` [N] at its group's scales."""
        a, b = self.scales[self.group[j]], self.other_scales[self.group[j]]
        first, second = nearest_signs(wanted, a, b)
        self.codes[j], self.other_codes[j] = first > 0, second > 0
        self.rounded[j] = first * a + second * b

    def fit_scale(self, group: int, run: slice, pull: np.ndarray) -> None:
        """Move both scales of a group to what fits its signs, and ``pull`` along with them."""
        first, second = (2 * codes[run].astype(np.float32) - 1 for codes in self._both())
        seen = self.gram[run, run] @ first, self.gram[run, run] @ second
        along = (first * pull[run]).sum(0), (second * pull[run]).sum(0)
        bends = ((first * seen[0]).sum(0), (first * seen[1]).sum(0), (second * seen[1]).sum(0))
        zero = np.zeros_like(along[0])
        a, b = _solve(along, bends, (zero, zero))
        self.set_scales(group, self.scales[group] + a, self.other_scales[group] + b)
        self.become(run, first * self.scales[group] + second * self.other_scales[group], pull)

    def _both(self) -> tuple[np.ndarray, np.ndarray]:
        return self.codes, self.other_codes


def nearest_signs(
    wanted: np.ndarray, a: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The signs s and t, float32, with ``a * s + b * t`` nearest to ``wanted``.

    The larger scale takes the sign of what is wanted, the other that of what is left.
    """
    swapped = np.abs(b) > np.abs(a)
    large, small = np.where(swapped, b, a), np.where(swapped, a, b)
    one = _sign(wanted * large)
    two = _sign((wanted - one * large) * small)
    return np.where(swapped, two, one), np.where(swapped, one, two)


def _sign(values: np.ndarray) -> np.ndarray:
    return np.where(values < 0, np.float32(-1), np.float32(1))


def _solve(
    along: tuple[np.ndarray, np.ndarray],
    bends: tuple[np.ndarray, np.ndarray, np.ndarray],
    otherwise: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Solve ``[[p, q], [q, r]] (a, b) = along`` for each row; ``otherwise`` where that is singular.

    It is where both planes have the same signs, or opposite ones, throughout.
    """
    (p, q, r), (x, y) = bends, along
    whole = p * r - q * q
    fine = whole > 1e-6 * p * r
    inverse = np.divide(1.0, whole, out=np.zeros_like(whole), where=fine)
    a, b = (r * x - q * y) * inverse, (p * y - q * x) * inverse
    return np.where(fine, a, otherwise[0]), np.where(fine, b, otherwise[1])
