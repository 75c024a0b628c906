"""What may be done to the channels of a space without changing what the model computes."""

from __future__ import annotations

import enum


class Symmetry(enum.Flag):
    """A kind of change of coordinates.

    ``SCALE`` multiplies each channel by a positive number, ``ROTATE`` multiplies the channels by
    an orthogonal matrix, ``PERMUTE`` reorders them, and ``CENTER`` subtracts the mean over all
    channels from each.
    """

    NONE = 0
    SCALE = 1
    ROTATE = 2
    PERMUTE = 4
    CENTER = 8

    def words(self) -> str:
        """For people: ``rotate, permute``; ``none``."""
        shown = [
            each.name.lower() for each in (ROTATE, SCALE, PERMUTE) if each in self and each.name
        ]
        return ", ".join(shown) or "none"


NONE, SCALE, ROTATE, PERMUTE, CENTER = (Symmetry(each) for each in (0, 1, 2, 4, 8))
ALL = SCALE | ROTATE | PERMUTE | CENTER
