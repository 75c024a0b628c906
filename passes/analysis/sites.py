"""Sites: one view, W[out, in], of every linear op with a constant weight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.conv_shape import ConvShape
from bitfold.runtime.ops import DOMAIN

Kind = Literal["matmul", "gemm", "gather", "conv"]


@dataclass(frozen=True)
class Site:
    """One linear op with a constant weight.

    Attributes:
        node: the MatMul, Gemm, Gather or Conv.
        kind: which of them it is.
        source: where the weight comes from: an initializer, or the output of a
            ``bitfold.DequantizeWeight``.
        out_first: whether the source is stored as [out, in]; otherwise it is [in, out].
        transpose: the Transpose between source and node, where there is one.
        conv: the weight's shape, where the site is a Conv.  A float source is the Conv's own
            [N, C/groups, *kernel]; a quantized one is [N, K], K in the order (tap, channel),
            with a Reshape and ``transpose`` behind it.
    """

    node: ir.Node
    kind: Kind
    source: ir.Value
    out_first: bool
    transpose: ir.Node | None = None
    conv: ConvShape | None = None

    @property
    def name(self) -> str:
        """The node's name; what globs and reports use."""
        return self.node.name or self.node.outputs[0].name or "(unnamed)"

    @property
    def data(self) -> ir.Value:
        """The value that the op applies the weight to (for a Gather, the indices)."""
        value = self.node.inputs[1 if self.kind == "gather" else 0]
        assert value is not None, "a linear op has its data input: the model was checked"
        return value

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K): output and input channels.  For a Gather, rows and their length."""
        assert self.source.shape is not None, "a site's weight has a shape"
        dims = self.source.shape.numpy()
        if self.conv is not None:
            return self.conv.n, self.conv.k
        return (dims[0], dims[1]) if self.out_first else (dims[1], dims[0])

    @property
    def quantized(self) -> ir.Node | None:
        """The DequantizeWeight node that the weight comes from, if it is quantized."""
        producer = self.source.producer()
        return producer if is_dequantize(producer) else None

    def weight(self) -> np.ndarray:
        """The float weight as an array or view [N, K]; a Conv's columns are (tap, channel)."""
        if self.source.const_value is None:
            raise ValueError(f"the weight of {self.name} is quantized, there is no float array")
        array = self.source.const_value.numpy()
        if self.conv is not None:
            return self.conv.columns(array)
        return array if self.out_first else array.T

    def matches(self, globs: tuple[str, ...]) -> bool:
        """Whether a glob matches the site's name or its weight's."""
        names = (self.name, self.source.name or "")
        return any(fnmatchcase(name, glob) for glob in globs for name in names)


def find_sites(model: ir.Model) -> Iterator[Site]:
    """Every site of the model and of its subgraphs, in graph order."""
    for node in model.graph.all_nodes():
        site = site_of(node)
        if site is not None:
            yield site


def site_of(node: ir.Node) -> Site | None:
    """The site that ``node`` is, or None if it is no linear op with a constant weight."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "MatMul":
        return _matmul(node)
    if node.op_type == "Gemm":
        return _gemm(node)
    if node.op_type == "Gather":
        source = node.inputs[0]
        if _is_weight(source, 2) and node.attributes.get_int("axis", 0) == 0:
            return Site(node, "gather", source, out_first=True)  # type: ignore[arg-type]
    if node.op_type == "Conv":
        return _conv(node)
    return None


def is_dequantize(node: ir.Node | None) -> bool:
    """Whether ``node`` turns codes into a float weight."""
    return node is not None and node.domain == DOMAIN and node.op_type == "DequantizeWeight"


def input_at(node: ir.Node, index: int) -> ir.Value | None:
    """An input of ``node``; None where an optional one is left out, at the end or before it."""
    return node.inputs[index] if index < len(node.inputs) else None


def is_constant(value: ir.Value) -> bool:
    """Whether ``value`` is an initializer that no one can override from outside."""
    return value.is_initializer() and value.const_value is not None and not value.is_graph_input()


def is_vector(value: ir.Value, length: int) -> bool:
    """Whether ``value`` is a constant float32 vector of ``length`` elements: a plain bias."""
    return (
        is_constant(value)
        and value.const_value is not None
        and value.dtype == ir.DataType.FLOAT
        and tuple(value.const_value.shape) == (length,)
    )


def _matmul(node: ir.Node) -> Site | None:
    operand = node.inputs[1]
    if _is_weight(operand, 2):
        return Site(node, "matmul", operand, out_first=False)  # type: ignore[arg-type]
    producer = operand.producer() if operand is not None else None
    if producer is None or producer.op_type != "Transpose":
        return None
    source = producer.inputs[0]
    if _is_weight(source, 2) and tuple(producer.attributes.get_ints("perm", (1, 0))) == (1, 0):
        return Site(node, "matmul", source, out_first=True, transpose=producer)  # type: ignore[arg-type]
    return None


def _gemm(node: ir.Node) -> Site | None:
    attributes = node.attributes
    plain = (
        attributes.get_int("transA", 0) == 0
        and attributes.get_float("alpha", 1.0) == 1.0
        and attributes.get_float("beta", 1.0) == 1.0
    )
    source = node.inputs[1]
    if not plain or not _is_weight(source, 2):
        return None
    out_first = attributes.get_int("transB", 0) == 1
    site = Site(node, "gemm", source, out_first)  # type: ignore[arg-type]
    bias = input_at(node, 2)
    return site if bias is None or is_vector(bias, site.shape[0]) else None


def _conv(node: ir.Node) -> Site | None:
    if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    groups = node.attributes.get_int("group", 1)
    operand = node.inputs[1]
    if _is_weight(operand, 3) or _is_weight(operand, 4):
        n, cg, *kernel = operand.shape.numpy()  # type: ignore[union-attr]
        shape = ConvShape(n, cg, tuple(kernel), groups)
        return Site(node, "conv", operand, out_first=True, conv=shape)  # type: ignore[arg-type]
    transpose = operand.producer() if operand is not None else None
    reshape = _producer(transpose, "Transpose")
    source = reshape.inputs[0] if reshape is not None and reshape.op_type == "Reshape" else None
    if transpose is None or source is None or not is_dequantize(source.producer()):
        return None
    grid = reshape.outputs[0].shape if reshape is not None else None
    if grid is None or not grid.is_static():
        return None
    n, *kernel, cg = grid.numpy()
    shape = ConvShape(n, cg, tuple(kernel), groups)
    if tuple(transpose.attributes.get_ints("perm", ())) != shape.to_channels_first:
        return None
    return Site(node, "conv", source, out_first=True, transpose=transpose, conv=shape)


def _producer(node: ir.Node | None, op_type: str) -> ir.Node | None:
    """What makes the first input of ``node``, if that is an ``op_type``."""
    if node is None or node.op_type != op_type or node.inputs[0] is None:
        return None
    return node.inputs[0].producer()


def _is_weight(value: ir.Value | None, rank: int) -> bool:
    if value is None or value.shape is None or len(value.shape) != rank:
        return False
    return is_dequantize(value.producer()) or is_constant(value)
