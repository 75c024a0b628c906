"""How far outputs moved: SQNR, cosine, largest error, and KL and top-1 of logits.  Pure NumPy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitfold.passes.core.report import Divergence

Outputs = Mapping[str, np.ndarray]

_FILL = 1e3
"""Masks are filled with values below minus this."""

_BLOCK = 1 << 20
"""Elements handled at once."""

_ROWS = 16
"""Rows of logits handled at once: float64 copies stay small."""


@dataclass(frozen=True)
class Moved:
    """How far one array moved.

    Attributes:
        max_error: largest absolute difference over the largest absolute finite reference value;
            inf where a NaN or an infinity is new, gone or elsewhere, or the shapes differ.
        rms_error: root mean square of the difference over that of the reference.
    """

    max_error: float
    rms_error: float


def is_float(array: np.ndarray) -> bool:
    """Whether ``array`` holds real numbers: NumPy's floats and ml_dtypes' alike."""
    if array.dtype.kind == "f":
        return True
    return array.dtype.type.__module__.startswith("ml_dtypes") and "int" not in array.dtype.name


def flat_outputs(outputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Outputs as arrays alone: a sequence's elements one by one, an empty optional not at all."""
    flat: dict[str, np.ndarray] = {}
    for name, value in outputs.items():
        if isinstance(value, (list, tuple)):
            flat |= flat_outputs({f"{name}[{i}]": each for i, each in enumerate(value)})
            flat[f"{name}.length"] = np.array(len(value))
        elif value is not None:
            flat[name] = np.asarray(value)
    return flat


def moved(reference: np.ndarray, candidate: np.ndarray) -> Moved:
    """Compare two arrays; non-float arrays (indices, masks) either agree or do not."""
    reference, candidate = np.asarray(reference), np.asarray(candidate)
    if reference.shape != candidate.shape:
        return Moved(math.inf, math.inf)
    if not (is_float(reference) and is_float(candidate)):
        same = np.array_equal(reference, candidate)
        return Moved(0.0, 0.0) if same else Moved(math.inf, math.inf)
    return _sums(reference, candidate).moved()


def moved_beside_mask(reference: np.ndarray, candidate: np.ndarray) -> Moved:
    """As :func:`moved`, but a mask's fill does not set the scale.

    Attention scores are masked with -10,000, -1e9 or the lowest float.  Relative to these, no
    other element ever moves: where the most negative elements stand far apart from all others,
    both parts are compared on their own, and the worse counts.
    """
    reference, candidate = np.asarray(reference), np.asarray(candidate)
    if reference.shape == candidate.shape and is_float(reference) and reference.size:
        lowest = float(np.nanmin(reference))
        fill = reference < lowest / 2
        if lowest < -_FILL and not fill.all():
            rest = reference[~fill]
            if float(np.nanmax(np.abs(rest))) * 100 < -lowest:
                parts = moved(rest, candidate[~fill]), moved(reference[fill], candidate[fill])
                return max(parts, key=lambda part: part.max_error)
    return moved(reference, candidate)


@dataclass
class _Sums:
    """What one pass over two float arrays of the same shape gathers, in float64."""

    signal: float = 0.0
    noise: float = 0.0
    product: float = 0.0
    power: float = 0.0
    largest: float = 0.0
    largest_error: float = 0.0

    def moved(self) -> Moved:
        if math.isinf(self.largest_error):
            return Moved(math.inf, math.inf)
        rms = _ratio(math.sqrt(self.noise), math.sqrt(self.signal))
        return Moved(_ratio(self.largest_error, self.largest), rms)

    def cosine(self) -> float:
        product = math.sqrt(self.signal) * math.sqrt(self.power)
        if product == 0:
            return 1.0 if self.signal == self.power else 0.0
        return min(1.0, self.product / product)


def _sums(reference: np.ndarray, candidate: np.ndarray) -> _Sums:
    """Gather the sums over the finite part, a block at a time: no float64 copy of the whole."""
    sums = _Sums()
    x, y = reference.reshape(-1), candidate.reshape(-1)
    for start in range(0, x.size, _BLOCK):
        a = x[start : start + _BLOCK].astype(np.float64)
        b = y[start : start + _BLOCK].astype(np.float64)
        finite = np.isfinite(a)
        if not finite.all() or not np.isfinite(b).all():
            # What is not finite must be the same thing in the same place.
            if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
                return _Sums(largest_error=math.inf)
            a, b = a[finite], b[finite]
            if not np.isfinite(b).all():
                return _Sums(largest_error=math.inf)
        if a.size:
            difference = a - b
            sums.signal += float(a @ a)
            sums.power += float(b @ b)
            sums.product += float(a @ b)
            sums.noise += float(difference @ difference)
            sums.largest = max(sums.largest, float(np.abs(a).max()))
            sums.largest_error = max(sums.largest_error, float(np.abs(difference).max()))
    return sums


def compare_outputs(pairs: Iterable[tuple[Outputs, Outputs]]) -> Divergence:
    """Compare a reference's outputs with a candidate's, one pair a sample.

    Each figure of :class:`Divergence` is the worst over outputs (SQNR, cosine, largest error)
    or the mean over all positions of all samples (KL, top-1).  A lost output or a new NaN makes
    the largest error inf, the SQNR -inf and the cosine 0.

    Raises:
        ValueError: there is no pair to compare.
    """
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    cosines: dict[str, list[float]] = {}
    max_error = 0.0
    kl_sum, agree, positions = 0.0, 0, 0
    empty = True
    for reference, candidate in pairs:
        empty = False
        logits = logits_name(reference)
        for name, expected in reference.items():
            found = candidate.get(name)
            if not is_float(np.asarray(expected)):
                apart = Moved(math.inf, math.inf) if found is None else moved(expected, found)
                max_error = max(max_error, apart.max_error)
                continue
            if found is None or not is_float(found) or found.shape != expected.shape:
                sums = _Sums(largest_error=math.inf)
            elif expected.size == 0:
                continue
            else:
                sums = _sums(expected, found)
            max_error = max(max_error, sums.moved().max_error)
            if found is None or math.isinf(sums.largest_error):
                noise[name] = math.inf
                cosines.setdefault(name, []).append(0.0)
                continue
            signal[name] = signal.get(name, 0.0) + sums.signal
            noise[name] = noise.get(name, 0.0) + sums.noise
            cosines.setdefault(name, []).append(sums.cosine())
            if name == logits:
                part_kl, part_agree, rows = _compare_logits(expected, found)
                kl_sum, agree, positions = kl_sum + part_kl, agree + part_agree, positions + rows
    if empty:
        raise ValueError("expected at least one sample to compare, found none")
    sqnr = [_decibels(signal.get(name, 0.0), noise[name]) for name in noise]
    return Divergence(
        sqnr_db=min(sqnr, default=math.inf if max_error == 0 else -math.inf),
        cosine=min((float(np.mean(c)) for c in cosines.values()), default=1.0),
        max_error=max_error,
        kl=kl_sum / positions if positions else None,
        top1=agree / positions if positions else None,
    )


def logits_name(outputs: Outputs) -> str | None:
    """The output that holds logits, told by its name; None where there is none.

    Shape alone does not tell logits from hidden states, whose KL means nothing.
    """
    for name, array in outputs.items():
        if "logits" in name.lower() and is_float(np.asarray(array)) and array.ndim >= 2:
            return name
    return None


def kl_divergence(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """KL(softmax(reference) || softmax(candidate)) of each row, in nats: [M, V] → [M]."""
    p, q = _log_softmax(reference), _log_softmax(candidate)
    with np.errstate(invalid="ignore"):
        terms = np.exp(p) * (p - q)
    # A class masked with -inf has probability 0 and adds nothing.
    return np.where(np.isneginf(p), 0.0, terms).sum(axis=-1)


def _compare_logits(expected: np.ndarray, found: np.ndarray) -> tuple[float, int, int]:
    classes = expected.shape[-1]
    a, b = expected.reshape(-1, classes), found.reshape(-1, classes)
    total, agree, rows = 0.0, 0, 0
    for start in range(0, len(a), _ROWS):
        x, y = a[start : start + _ROWS], b[start : start + _ROWS]
        # A row that holds NaN (a fully masked position, say) is no distribution.
        usable = ~(np.isnan(x).any(axis=-1) | np.isneginf(x).all(axis=-1))
        x, y = x[usable], y[usable]
        total += float(kl_divergence(x, y).sum())
        agree += int((x.argmax(axis=-1) == y.argmax(axis=-1)).sum())
        rows += len(x)
    return total, agree, rows


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=-1, keepdims=True)))


def _ratio(part: float, whole: float) -> float:
    if part == 0:
        return 0.0
    return part / whole if whole > 0 else math.inf


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    if signal == 0 or math.isinf(noise):
        return -math.inf
    return 10 * math.log10(signal / noise)
