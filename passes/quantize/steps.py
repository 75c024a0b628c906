"""Find the unit of which numbers are whole steps: weight math, with no graph in sight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FIRST_VALUES = 3
"""Values of a group that are compared with a unit before all are."""

NEAR = 2.0**-22
"""How far the ratio of two rounded products may be from that of their steps, relatively."""


@dataclass(frozen=True)
class Steps:
    """Groups of values as whole steps: ``value == float32(unit * step)``.

    Attributes:
        unit: float32 [N, G], not negative; 0 for a group of zeros.
        middle: float64 [N, G]: between the least and the greatest number that serves as the unit.
        step: int16 [N, G, size].
    """

    unit: np.ndarray
    middle: np.ndarray
    step: np.ndarray


def find_steps(groups: np.ndarray, most: int) -> Steps | None:
    """The largest unit of each group [N, G, size] of which all its values are whole steps.

    A unit is the largest magnitude divided by its steps, of which each number is tried.  Values
    are products that were rounded to float32, so each leaves an interval of units that round to
    it; a unit is a float32 in all of these.

    Args:
        groups: float32; must be finite.
        most: steps of the largest magnitude of a group.

    Returns:
        None where some group has no unit.
    """
    flat = groups.reshape(-1, groups.shape[-1])
    magnitude = np.abs(flat).astype(np.float64)
    reach = magnitude.max(-1)
    unit, middle = np.zeros(len(flat), np.float32), np.zeros(len(flat))
    step = np.zeros(flat.shape, np.int16)
    left = np.flatnonzero(reach)
    for top in range(1, most + 1):
        if not left.size:
            break
        per_value = (top / reach[left])[:, None]
        near = _near_whole(magnitude[left, :FIRST_VALUES] * per_value)
        tried, ratio = left[near], magnitude[left[near]] * per_value[near]
        near = _near_whole(ratio)
        tried, whole = tried[near], np.rint(ratio[near])
        if not tried.size:
            continue
        found, between = _units(np.abs(flat[tried]), whole)
        right = found > 0
        tried, whole = tried[right], whole[right]
        unit[tried], middle[tried] = found[right], between[right]
        step[tried] = np.copysign(whole, flat[tried])
        left = left[unit[left] == 0]
    if left.size:
        return None
    outer = groups.shape[:-1]
    return Steps(unit.reshape(outer), middle.reshape(outer), step.reshape(groups.shape))


def may_have_unit(values: np.ndarray, most: int) -> bool:
    """Whether ``values`` [size] may be whole steps of a unit: a quick look before the search."""
    magnitude = np.abs(values).astype(np.float64)
    reach = magnitude.max()
    if not reach:
        return True
    return bool(_near_whole(np.arange(1, most + 1)[:, None] * (magnitude / reach)).any())


def _near_whole(ratio: np.ndarray) -> np.ndarray:
    """Whether all of each row's numbers are whole ones, up to the rounding of products."""
    near: np.ndarray = (np.abs(ratio - np.rint(ratio)) <= NEAR * ratio).all(-1)
    return near


def _units(magnitude: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Units, float32 [G], whose products with ``step`` [G, size] round to ``magnitude``; 0 if none.

    Also the middle of the interval of all real numbers that do.  Where a float32 lies in it, the
    one nearest to its middle does, or a neighbour of that one.
    """
    value, some = magnitude.astype(np.float64), step > 0
    below = (value + np.nextafter(magnitude, np.float32(0))) / 2
    above = (value + np.nextafter(magnitude, np.float32(np.inf))) / 2
    divisor = np.where(some, step, 1)
    low = np.where(some, below / divisor, 0).max(-1, initial=0)
    high = np.where(some, above / divisor, np.inf).min(-1, initial=np.inf)
    middle = (low + high) / 2
    nearest, steps = middle.astype(np.float32), step.astype(np.float32)
    unit = np.zeros_like(nearest)
    for tried in (nearest, *(np.nextafter(nearest, np.float32(end)) for end in (0, np.inf))):
        serves = (unit == 0) & (tried[:, None] * steps == magnitude).all(-1)
        unit = np.where(serves, tried, unit)
    return unit, middle
