"""What comes before a matmul and goes into LowBitMatMul's prologue."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from bitfold.passes.analysis.sites import Site, input_at, is_vector
from bitfold.passes.lower.epilogue import array_of, is_op
from bitfold.passes.lower.low_rank import LowRank
from bitfold.passes.lower.site_input import SiteInput
from bitfold.runtime.ops import DOMAIN
from bitfold.runtime.ops.prologue import NO_PROLOGUE, Prologue


@dataclass(frozen=True)
class Head:
    """What comes before a matmul's rounding and has no other use.

    Attributes:
        source: the value that the operator reads.
        prologue: what is done to it.
        gain: the norm's gain, if there is one.
        base: the Hadamard transform's base matrix, if there is one.
    """

    source: ir.Value
    prologue: Prologue = NO_PROLOGUE
    gain: ir.Value | None = None
    base: ir.Value | None = None

    def taken(self) -> list[str]:
        """Names of what goes into the prologue, for the report."""
        names = ["norm"] * (self.prologue.epsilon is not None)
        return names + ["Hadamard"] * bool(self.prologue.hadamard_size)


def head_of(site: Site, given: SiteInput, low_rank: LowRank | None) -> Head:
    """The longest head that LowBitMatMul's prologue has room for: a norm, then a Hadamard.

    A norm with other readers than the operator's own parts (a low-rank branch is one) stays a
    node: the operators would each compute it again.
    """
    head = Head(given.value)
    if given.shared:
        return head
    readers = [given.reader] + ([low_rank.down.node] if low_rank is not None else [])
    node = _only_producer(given.value, readers)
    if node is not None and is_op(node, "Hadamard", DOMAIN):
        head = _with_hadamard(head, node, site.shape[1])
        node = _only_producer(head.source, [node])
    if node is not None and is_op(node, "RMSNormalization"):
        head = _with_norm(head, node, site.shape[1])
    return head


def _only_producer(value: ir.Value, readers: list[ir.Node]) -> ir.Node | None:
    """What computes ``value``, where ``readers`` alone read it."""
    known = not value.is_graph_output() and all(use.node in readers for use in value.uses())
    return value.producer() if known else None


def _with_hadamard(head: Head, node: ir.Node, k: int) -> Head:
    source, base = input_at(node, 0), input_at(node, 1)
    size = node.attributes.get_int("size", 0)
    matrix = array_of(base)
    if source is None or size < 1 or k % size or (base is not None and matrix is None):
        return head
    prologue = Prologue(None, size, 1 if matrix is None else len(matrix))
    return replace(head, source=source, prologue=prologue, base=base)


def _with_norm(head: Head, node: ir.Node, k: int) -> Head:
    source, gain = input_at(node, 0), input_at(node, 1)
    if source is None or gain is None or not is_vector(gain, k):
        return head
    rank = len(source.shape) if source.shape is not None else 0
    whole_rows = node.attributes.get_int("axis", -1) in (-1, rank - 1)
    if not whole_rows or node.attributes.get_int("stash_type", 1) != 1:
        return head
    if source.dtype != ir.DataType.FLOAT:
        return head
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    prologue = replace(head.prologue, epsilon=epsilon)
    return replace(head, source=source, prologue=prologue, gain=gain)
