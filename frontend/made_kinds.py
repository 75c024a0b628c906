"""What calibration inputs can be made of where there are no data."""

from __future__ import annotations

from typing import Literal, get_args

Made = Literal["self", "distilled", "random"]

MADE: tuple[Made, ...] = get_args(Made)
