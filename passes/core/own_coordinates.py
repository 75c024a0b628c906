"""Caches that a model keeps in coordinates of its own, and how to bring them back.

A graph input and output that hand keys or values [batch, heads, length, D] from run to run may
hold them rotated or scaled.  Whoever feeds outputs back as inputs never sees that; whoever compares
two models must bring both to the same coordinates.  So these values carry the matrices that they
were multiplied by as metadata.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

KEY = "bitfold.rotation"
"""Metadata of a graph input or output: its matrices, float32 [heads, D, D], zlib in base64."""


def add_rotation(value: ir.Value, rotation: np.ndarray) -> None:
    """Say that ``value`` now holds its rows times ``rotation``, [heads, D, D]; it adds up.

    Any matrices that have an inverse will do, such as diagonal ones.
    """
    before = rotation_of(value)
    total = rotation if before is None else before @ rotation
    data = zlib.compress(np.ascontiguousarray(total, "<f4").tobytes(), 9)
    heads, width, _ = total.shape
    value.metadata_props[KEY] = f"{heads} {width} {base64.b64encode(data).decode()}"


def rotation_of(value: ir.Value) -> np.ndarray | None:
    """The matrices [heads, D, D] of a graph input or output; None where it has none."""
    text = value.metadata_props.get(KEY)
    if text is None:
        return None
    heads, width, data = text.split()
    flat = np.frombuffer(zlib.decompress(base64.b64decode(data)), "<f4")
    return flat.reshape(int(heads), int(width), int(width))


def carry_rotations(before: ir.Graph, after: ir.Graph) -> None:
    """Give values that a pass put in the place of others the rotations that these had."""
    had = {value.name: value.metadata_props.get(KEY) for value in (*before.inputs, *before.outputs)}
    for value in (*after.inputs, *after.outputs):
        text = had.get(value.name)
        if text is not None:
            value.metadata_props.setdefault(KEY, text)


def to_own(inputs: Iterable[ir.Value], feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Feeds in the original coordinates, as a model with these inputs wants them."""
    turned = dict(feeds)
    for value in inputs:
        rotation = rotation_of(value)
        if rotation is not None and value.name in turned:
            turned[value.name] = np.matmul(feeds[value.name], rotation)
    return turned


def to_original(
    outputs: Iterable[ir.Value], found: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What a model with these outputs gave, in the original coordinates."""
    turned = dict(found)
    for value in outputs:
        rotation = rotation_of(value)
        if rotation is not None and value.name in turned:
            back = np.linalg.inv(rotation.astype(np.float64)).astype(np.float32)
            turned[value.name] = np.matmul(found[value.name], back)
    return turned
