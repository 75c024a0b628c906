"""What a model is compiled for, by name."""

from __future__ import annotations

from typing import Literal

Target = Literal["native", "ort", "portable"]
"""bitfold's own kernels, those of stock ONNX Runtime, or standard operators alone."""

ORT_DOMAIN = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""

STOCK_WIDTHS = (2, 4, 8)
"""Bits of the integers that ``ort`` and ``portable`` store weights as."""


def stock_width(width: int) -> int:
    """Bits that integers of ``width`` bits, at most 8, are stored with where that is not native."""
    return min(each for each in STOCK_WIDTHS if each >= width)
