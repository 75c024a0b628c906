"""What follows a matmul and goes into LowBitMatMul's epilogue."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from bitfold.passes.analysis.row_origin import same_shape
from bitfold.passes.analysis.sites import Site, input_at, is_vector
from bitfold.passes.lower.epilogue import is_op, only_consumer
from bitfold.passes.lower.low_rank import LowRank, low_rank_of
from bitfold.runtime.layouts.tiles import TILE
from bitfold.runtime.ops import DOMAIN


@dataclass
class Tail:
    """What follows a matmul and is, step by step, its output's only use.

    Attributes:
        nodes: the matmul and what follows, in order.
        bias: the constant vector that is added, if any.
        low_rank: the low-rank branch that is added, if any, before the bias or behind it.
        activation: what comes next, as LowBitMatMul names it.
        residual: the value that is added last, if any.
        splits: sizes of the parts into which a Split cuts the result; empty where there is none.
    """

    nodes: list[ir.Node] = field(default_factory=list)
    bias: ir.Value | None = None
    low_rank: LowRank | None = None
    activation: str = "none"
    residual: ir.Value | None = None
    splits: tuple[int, ...] = ()

    @property
    def outputs(self) -> list[ir.Value]:
        """The values that the operator's outputs replace."""
        return list(self.nodes[-1].outputs)

    def taken(self) -> list[str]:
        """Names of what goes into the epilogue, for the report."""
        names = ["low rank"] * (self.low_rank is not None)
        names += ["bias"] * (self.bias is not None)
        names += [self.activation] * (self.activation != "none")
        names += ["residual"] * (self.residual is not None) + ["Split"] * bool(self.splits)
        return names


def tail_of(site: Site, source: ir.Value) -> Tail:
    """The longest tail that LowBitMatMul's epilogue has room for.

    A low-rank branch and a bias, an activation and then either a residual or a Split.

    Args:
        source: the site's input before it is rounded.
    """
    tail = Tail([site.node], input_at(site.node, 2) if site.kind == "gemm" else None)
    follower = _follower(tail, site)
    while follower is not None and is_op(follower, "Add") and _takes(tail, follower, site, source):
        follower = _follower(tail, site)
    activation = activation_of(follower) if follower is not None else None
    if follower is not None and activation is not None:
        tail.activation = activation
        tail.nodes.append(follower)
        follower = _follower(tail, site)
    if follower is None:
        return tail
    if is_op(follower, "Add"):
        other = _other(follower, tail)
        if other is not None and _is_residual(other, tail.outputs[0]):
            tail.residual = other
            tail.nodes.append(follower)
    elif is_op(follower, "Split"):
        tail.splits = _tile_sizes(follower)
        tail.nodes += [follower] * bool(tail.splits)
    return tail


def _takes(tail: Tail, add: ir.Node, site: Site, source: ir.Value) -> bool:
    """Take in what ``add`` adds, where it is a bias or a low-rank branch and the first of them."""
    other = _other(add, tail)
    if other is not None and tail.bias is None and is_vector(other, site.shape[0]):
        tail.bias = other
    elif tail.low_rank is None and (branch := low_rank_of(other, site, source)) is not None:
        tail.low_rank = branch
        tail.nodes += branch.nodes
    else:
        return False
    tail.nodes.append(add)
    return True


def activation_of(node: ir.Node) -> str | None:
    """The epilogue's name of an activation; None where it has none."""
    if is_op(node, "SwiGLU", DOMAIN):
        return "swiglu"
    if is_op(node, "Relu"):
        return "relu"
    if is_op(node, "Gelu"):
        kind = node.attributes.get_string("approximate", "none")
        return {"none": "gelu", "tanh": "gelu_tanh"}.get(kind)
    return None


def _follower(tail: Tail, site: Site) -> ir.Node | None:
    return only_consumer(tail.outputs[0], site.node.graph)


def _other(add: ir.Node, tail: Tail) -> ir.Value | None:
    """What ``add`` adds to the tail; None where it adds the tail to itself."""
    return next((each for each in add.inputs if each is not tail.outputs[0]), None)


def _is_residual(other: ir.Value, output: ir.Value) -> bool:
    plain = other.dtype == ir.DataType.FLOAT and other.const_value is None
    return plain and same_shape(other, output)


def _tile_sizes(split: ir.Node) -> tuple[int, ...]:
    """The sizes of a Split of the last axis at edges of tiles; empty for any other."""
    parts = [value.shape[-1] if value.shape is not None else None for value in split.outputs]
    sizes = tuple(size for size in parts if isinstance(size, int))
    source = split.inputs[0]
    rank = len(source.shape) if source is not None and source.shape is not None else 0
    axis = split.attributes.get_int("axis", 0)
    known = len(sizes) == len(parts) > 1 and axis in (-1, rank - 1)
    unused = any(not value.uses() and not value.is_graph_output() for value in split.outputs)
    return () if not known or unused or any(size % TILE for size in sizes[:-1]) else sizes
