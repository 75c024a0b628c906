"""Figures as people read them: sizes, times, shares, significant digits."""

from __future__ import annotations

import math

from bitfold.passes.core.words import counted as counted


def size(count: float) -> str:
    """Bytes in MB of 10**6 bytes, and in kB below a tenth of one."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def number(value: float | None, digits: int = 4) -> str:
    """A figure with ``digits`` significant digits; a dash for none."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.{digits}g}" if abs(value) < 10 ** (digits - 1) else f"{value:.0f}"


def percent(value: float | None) -> str:
    """A share as a percentage; a dash for none."""
    return "-" if value is None else f"{100 * value:.1f}%"


def duration(seconds: float | None) -> str:
    """A time in s, ms or µs with three significant digits; a dash for none."""
    if seconds is None:
        return "-"
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1 or unit == "µs":
            break
    value = seconds * factor
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
