"""Reports as plain data: what JSON can hold."""

from __future__ import annotations

import json
import math
from typing import Any


def to_json(data: Any) -> str:
    """Data as indented JSON; numbers that JSON lacks (inf, nan) become null."""
    return json.dumps(plain(data), indent=2, ensure_ascii=False, allow_nan=False)


def plain(data: Any) -> Any:
    """Data made of dictionaries, lists, strings, finite numbers and None alone."""
    if isinstance(data, dict):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [plain(value) for value in data]
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if data is None or isinstance(data, (str, int)):
        return data
    item = getattr(data, "item", None)
    if callable(item) and getattr(data, "ndim", None) == 0:  # a NumPy scalar
        return plain(item())
    return str(data)
