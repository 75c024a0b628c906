"""Binary weights {-1, 1} in one bit (BinaryConnect, arXiv 1511.00363; XNOR-Net, 1603.05279)."""

from __future__ import annotations

from bitfold.runtime.formats.format import Format

BINARY = Format("binary", 1, (-1, 1), linear=False)
