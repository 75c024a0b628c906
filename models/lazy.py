"""Weights that are converted when they are read, and not kept after."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from bitfold.runtime.errors import ModelError

Weight = np.ndarray | ir.TensorProtocol
Weights = Mapping[str, Weight] | Callable[[str], Weight]


def fetch_weight(weights: Weights, name: str, shape: tuple[int, ...]) -> Weight:
    """The weight of a name, its values unread.

    Raises:
        ModelError: it is missing, or has another shape.
    """
    try:
        weight = weights(name) if callable(weights) else weights[name]
    except KeyError:
        raise ModelError(f"weight {name} is missing") from None
    found = static_shape(weight)
    if found != shape:
        raise ModelError(f"weight {name}: expected shape {list(shape)}, found {list(found)}")
    return weight


def lazy_tensor(weight: Weight, name: str, transpose: bool = False) -> ir.TensorProtocol:
    """The weight, or its transpose, as an f32 tensor that reads its values when asked for them."""

    def read() -> ir.TensorProtocol:
        array = weight if isinstance(weight, np.ndarray) else weight.numpy()
        if transpose:
            array = array.T
        return ir.tensor(np.ascontiguousarray(array, np.float32), name=name)

    shape = static_shape(weight)
    return ir.LazyTensor(
        read,
        dtype=ir.DataType.FLOAT,
        shape=ir.Shape(shape[::-1] if transpose else shape),
        name=name,
    )


def static_shape(weight: Weight) -> tuple[int, ...]:
    """The shape of an array or tensor."""
    shape = weight.shape if isinstance(weight, np.ndarray) else weight.shape.numpy()
    return tuple(shape)
