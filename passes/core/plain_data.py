"""Dataclasses and arrays as JSON and bytes, and back: reading them runs no code of theirs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import ml_dtypes  # noqa: F401 - its types get their names
import numpy as np


@dataclass(frozen=True)
class Plain:
    """A value in plain form.

    Attributes:
        value: JSON: text, numbers and None are themselves; the rest are ``{"array": i}``,
            ``{"list": [...]}`` and ``{"class": name, "fields": {...}}``.
        arrays: type and shape of each array.
        payload: their bytes, one behind the other.
    """

    value: Any
    arrays: list[list[Any]]
    payload: bytes


def to_plain(value: Any) -> Plain:
    """Turn into plain form what is made of dataclasses, arrays, sequences, text and numbers.

    Raises:
        TypeError: there is something else in it.
    """
    arrays: list[np.ndarray] = []

    def convert(part: Any) -> Any:
        if part is None or isinstance(part, (bool, int, float, str)):
            return part.item() if isinstance(part, np.generic) else part
        if isinstance(part, (np.ndarray, np.generic)):
            arrays.append(np.asarray(part))
            return {"array": len(arrays) - 1, "scalar": isinstance(part, np.generic)}
        if isinstance(part, (list, tuple)):
            return {"list": [convert(each) for each in part]}
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            names = [field.name for field in dataclasses.fields(part) if field.init]
            fields = {name: convert(getattr(part, name)) for name in names}
            return {"class": type(part).__name__, "fields": fields}
        raise TypeError(f"expected dataclasses, arrays, text and numbers, found {type(part)}")

    made = convert(value)
    kinds = [[str(array.dtype), list(array.shape)] for array in arrays]
    return Plain(made, kinds, b"".join(array.tobytes() for array in arrays))


def from_plain(plain: Plain, classes: tuple[type, ...]) -> Any:
    """The value again; sequences come back as tuples.

    Args:
        classes: those that it may hold.

    Raises:
        ValueError, KeyError, TypeError: it is none of these, or the bytes are not all there.
    """
    arrays, start = [], 0
    for kind, shape in plain.arrays:
        dtype, count = np.dtype(kind), int(np.prod(shape))
        array = np.frombuffer(plain.payload, dtype, count, start) if count else np.empty(0, dtype)
        arrays.append(array.reshape(shape).copy())  # aligned, and free to be written
        start += array.nbytes
    if start != len(plain.payload):
        raise ValueError(f"expected {start} bytes of arrays, found {len(plain.payload)}")
    known = {each.__name__: each for each in classes}

    def convert(part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        if "array" in part:
            array = arrays[part["array"]]
            return array[()] if part["scalar"] else array
        if "list" in part:
            return tuple(convert(each) for each in part["list"])
        fields = {name: convert(each) for name, each in part["fields"].items()}
        return known[part["class"]](**fields)

    return convert(plain.value)
