"""What follows a convolution and goes into LowBitConv's epilogue."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.row_origin import same_shape
from bitfold.passes.analysis.sites import Site, input_at, is_constant
from bitfold.passes.lower.epilogue import array_of, is_op, only_consumer

LARGEST = float(np.finfo(np.float32).max)


@dataclass
class ConvTail:
    """What follows a convolution and is, step by step, its output's only use.

    Attributes:
        nodes: the convolution and what follows, in order.
        activation: what comes first, as LowBitConv names it.
        low: least output of ``clip``.
        high: largest output of ``clip``.
        scale: what is multiplied by then.
        shift: what is added then.
        residual: the value that is added last, if any.
    """

    nodes: list[ir.Node] = field(default_factory=list)
    activation: str = "none"
    low: float = 0.0
    high: float = 0.0
    scale: float = 1.0
    shift: float = 0.0
    residual: ir.Value | None = None

    @property
    def output(self) -> ir.Value:
        """The value that the operator's output replaces."""
        return self.nodes[-1].outputs[0]

    def taken(self) -> list[str]:
        """Names of what goes into the epilogue, for the report."""
        names = [self.activation] * (self.activation != "none")
        names += ["scale"] * (self.scale != 1) + ["shift"] * (self.shift != 0)
        return names + ["residual"] * (self.residual is not None)


def tail_of(site: Site) -> ConvTail:
    """The longest tail that LowBitConv's epilogue has room for.

    An activation, a scale, a shift and a residual, each of which may be missing.
    """
    tail = ConvTail([site.node])
    _take_activation(tail)
    factor = _scalar(tail, "Mul")
    if factor is not None:
        tail.nodes.append(factor[0])
        tail.scale = factor[1]
    term = _scalar(tail, "Add")
    if term is not None:
        tail.nodes.append(term[0])
        tail.shift = term[1]
    follower = _follower(tail)
    if follower is not None and is_op(follower, "Add"):
        other = _other(follower, tail.output)
        if other is not None and _is_residual(other, tail.output):
            tail.residual = other
            tail.nodes.append(follower)
    return tail


def _follower(tail: ConvTail) -> ir.Node | None:
    return only_consumer(tail.output, tail.nodes[0].graph)


def _take_activation(tail: ConvTail) -> None:
    """Take a Relu, a Clip between constants or a HardSwish, whole or in two steps."""
    gated = _hard_swish_steps(tail)
    follower = _follower(tail)
    if gated:
        tail.activation = "hardswish"
        tail.nodes += gated
    elif follower is None or follower.inputs[0] is not tail.output:
        return
    elif is_op(follower, "Relu") or is_op(follower, "HardSwish"):
        tail.activation = follower.op_type.lower()
        tail.nodes.append(follower)
    elif is_op(follower, "Clip"):
        low = _bound(input_at(follower, 1), -LARGEST)
        high = _bound(input_at(follower, 2), LARGEST)
        if low is not None and high is not None and low <= high:
            tail.activation, tail.low, tail.high = "clip", low, high
            tail.nodes.append(follower)


def _hard_swish_steps(tail: ConvTail) -> list[ir.Node]:
    """``y * HardSigmoid(y)`` with HardSwish's slope and offset; empty where it is none."""
    value, graph = tail.output, tail.nodes[0].graph
    users = list(dict.fromkeys(use.node for use in value.uses()))
    gates = [node for node in users if is_op(node, "HardSigmoid") and node.graph is graph]
    if value.is_graph_output() or len(users) != 2 or len(gates) != 1:
        return []
    (gate,) = gates
    slope, offset = (
        gate.attributes.get_float(name, default)
        for name, default in (("alpha", 0.2), ("beta", 0.5))
    )
    product = only_consumer(gate.outputs[0], graph)
    if product is None or product not in users or not is_op(product, "Mul"):
        return []
    exact = np.float32(slope) == np.float32(1 / 6) and offset == 0.5
    return [gate, product] if exact else []


def _scalar(tail: ConvTail, op_type: str) -> tuple[ir.Node, float] | None:
    """The ``op_type`` with a constant scalar that follows, and the scalar."""
    follower = _follower(tail)
    if follower is None or not is_op(follower, op_type):
        return None
    other = _other(follower, tail.output)
    if other is None or other.shape is None or tail.output.shape is None:
        return None
    number = _number(other)
    # A scalar of more axes than the output would add some to it.
    if number is None or len(other.shape) > len(tail.output.shape):
        return None
    return follower, number


def _other(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """What ``node`` joins with ``value``; None where that is the value itself."""
    return next((each for each in node.inputs if each is not value), None)


def _is_residual(other: ir.Value, output: ir.Value) -> bool:
    plain = other.dtype == ir.DataType.FLOAT and other.const_value is None
    return plain and same_shape(other, output)


def _bound(value: ir.Value | None, default: float) -> float | None:
    """A bound of a Clip, or None if it is not known."""
    return default if value is None else _number(value)


def _number(value: ir.Value) -> float | None:
    """The one finite element of a constant, else None."""
    array = array_of(value) if is_constant(value) else None
    if array is None or array.size != 1 or not np.isfinite(array).all():
        return None
    return float(array.reshape(()))
