"""Ternary weights {-1, 0, 1} in two bits (BitNet b1.58, arXiv 2402.17764)."""

from __future__ import annotations

from bitfold.runtime.formats.format import Format

TERNARY = Format("ternary", 2, (-1, 0, 1))
