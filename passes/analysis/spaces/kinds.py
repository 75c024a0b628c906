"""What a space is, in the words of people who know networks: told from its structure alone."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from bitfold.passes.analysis.sites import is_constant, site_of
from bitfold.passes.analysis.spaces.space import Space
from bitfold.passes.analysis.spaces.symmetry import CENTER
from bitfold.passes.analysis.spaces.trace import Kind

NORMS = ("RMSNormalization", "LayerNormalization")
_JOINS = ("Add", "Sub", "Where")
_PRODUCTS = ("Mul", "Div", "SwiGLU")
_MOVES = ("Reshape", "Transpose", "Concat", "Split", "Slice", "Add", "Conv", "MatMul", "Gemm")

QUERY_KEY = "query-key pair"
VALUES = "values per head"
STREAM = "residual stream"
GATED = "gated hidden layer"
NORM = "norm output"
DEPTHWISE = "depthwise chain"
CHAIN = "convolution chain"
HIDDEN = "hidden layer"
BETWEEN = "between two layers"
OUTPUT = "model output"
OTHER = "channels"
KINDS = (STREAM, QUERY_KEY, VALUES, GATED, HIDDEN, CHAIN, DEPTHWISE, NORM, BETWEEN, OUTPUT, OTHER)
"""Every kind that :func:`kind_of` tells."""


def kind_of(space: Space, scaled: Sequence[Space] = ()) -> str:
    """What a space found for permutations is; one of :data:`KINDS`.

    Args:
        scaled: its parts as found for scaling, where queries and keys change inversely.
    """
    if any(is_dual(part) for part in scaled):
        return QUERY_KEY
    if any(lost & CENTER and _mixes_rows(node) for lost, node, _ in space.limits):
        return VALUES
    if len(space.writers) > 1 and any(_joins(node, _JOINS) for node in space.nodes):
        return STREAM
    if any(node.op_type == "SwiGLU" for node in space.nodes):
        return GATED
    if len(space.writers) > 1 and any(_joins(node, _PRODUCTS) for node in space.nodes):
        return GATED
    if not space.writers and any(node.op_type in NORMS for node in space.nodes):
        return NORM
    if not space.readers and any(node is None for _, node, _ in space.limits):
        return OUTPUT
    ends = {held.port.op.op_type for held in (*space.writers, *space.readers)}
    if "Conv" in ends:
        deep = any(h.port.op.op_type == "Conv" and h.port.kind is Kind.GAIN for h in space.held)
        return DEPTHWISE if deep else CHAIN
    if space.writers and space.readers:
        plain = all(node.op_type in _MOVES for node in space.nodes)
        return BETWEEN if plain else HIDDEN
    return OTHER


def is_dual(space: Space) -> bool:
    """Whether some of what holds it changes inversely, as keys do to queries."""
    return any(bool((held.inverse & (held.block.ravel() >= 0)).any()) for held in space.held)


def _mixes_rows(node: ir.Node | None) -> bool:
    """Whether it is attention's product, of probabilities by values."""
    if node is None:
        return False
    return node.op_type == "Attention" or (node.op_type == "MatMul" and site_of(node) is None)


def _joins(node: ir.Node, operators: Sequence[str]) -> bool:
    """Whether it is one of ``operators``, of two activations."""
    active = [value for value in node.inputs if value is not None and not is_constant(value)]
    return node.op_type in operators and len(active) > 1
