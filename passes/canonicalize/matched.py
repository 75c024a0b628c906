"""What a rule knows of the values that its pattern matched."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir


def node_of(value: ir.Value) -> ir.Node:
    """The node that the pattern matched as computing ``value``."""
    node = value.producer()
    assert node is not None, "the pattern matched it"
    return node


def weight_dims(value: ir.Value) -> tuple[int, ...] | None:
    """The shape of a constant that no one can override from outside; None for anything else."""
    if value.const_value is None or value.is_graph_input():
        return None
    return tuple(value.const_value.shape.numpy())


def array_of(value: ir.Value) -> np.ndarray:
    """The array of a constant that the rule's check has looked at."""
    assert value.const_value is not None, "checked"
    return value.const_value.numpy()


def constant_named(op: Any, array: np.ndarray, name: str) -> Any:
    """A new constant; a view of a mapped weight stays one."""
    return op.Constant(value=ir.tensor(array, name=name), _outputs=[name])
