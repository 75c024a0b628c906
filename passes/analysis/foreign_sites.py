"""Linear ops that another tool has quantized: QDQ, QOperator and ORT's contrib operators."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from bitfold.passes.analysis.sites import input_at
from bitfold.passes.core.targets import ORT_DOMAIN

_OPERATORS: dict[tuple[str, str], tuple[str, int]] = {
    ("", "MatMulInteger"): ("matmul", 1),
    ("", "QLinearMatMul"): ("matmul", 3),
    ("", "ConvInteger"): ("conv", 1),
    ("", "QLinearConv"): ("conv", 3),
    (ORT_DOMAIN, "MatMulIntegerToFloat"): ("matmul", 1),
    (ORT_DOMAIN, "DynamicQuantizeMatMul"): ("matmul", 1),
    (ORT_DOMAIN, "MatMulNBits"): ("matmul", 1),
    (ORT_DOMAIN, "MatMulBnb4"): ("matmul", 1),
    (ORT_DOMAIN, "QGemm"): ("gemm", 3),
    (ORT_DOMAIN, "GatherBlockQuantized"): ("gather", 0),
    (ORT_DOMAIN, "QAttention"): ("attention", 1),
    (ORT_DOMAIN, "QMoE"): ("moe", 2),
    (ORT_DOMAIN, "DynamicQuantizeLSTM"): ("lstm", 1),
}
"""From domain and operator to the kind of site, and which input holds the codes."""

_FLOAT_OPERATORS = {"MatMul": 1, "Gemm": 1, "Conv": 1, "ConvTranspose": 1, "Gather": 0}
"""Where these take their weight, which a DequantizeLinear may make."""

_ARRANGING = {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Cast", "Flatten"}


@dataclass(frozen=True)
class ForeignSite:
    """One linear op with codes of another tool's; it is kept as it is.

    Attributes:
        kind: as for sites: ``matmul``, ``conv`` and so on.
        codes: the constant that holds the codes.
        scheme: what is known of them, as people write it.
        bytes: size of the codes.
    """

    node: ir.Node
    kind: str
    codes: ir.Value
    scheme: str
    bytes: int


def foreign_site(node: ir.Node) -> ForeignSite | None:
    """The site that ``node`` is, if another tool has quantized it."""
    known = _OPERATORS.get((node.domain, node.op_type))
    if known is not None:
        kind, index = known
        codes = _constant(input_at(node, index))
        bits = node.attributes.get_int("bits", 0)
        how = f"{bits} bits, {node.op_type}" if bits else node.op_type
        return None if codes is None else _site(node, kind, codes, how)
    if node.domain != "" or node.op_type not in _FLOAT_OPERATORS:
        return None
    value = input_at(node, _FLOAT_OPERATORS[node.op_type])
    for _ in range(8):
        producer = None if value is None else value.producer()
        if producer is None or producer.domain not in ("", ORT_DOMAIN):
            return None
        if producer.op_type == "DequantizeLinear":
            codes = _constant(input_at(producer, 0))
            kind = node.op_type.lower()
            return None if codes is None else _site(node, kind, codes, "QDQ")
        if producer.op_type not in _ARRANGING:
            return None
        value = input_at(producer, 0)
    return None


def find_foreign_sites(model: ir.Model) -> Iterator[ForeignSite]:
    """Every such site of the model and of its subgraphs, in graph order."""
    for node in model.graph.all_nodes():
        site = foreign_site(node)
        if site is not None:
            yield site


def _site(node: ir.Node, kind: str, codes: ir.Value, how: str) -> ForeignSite:
    tensor = codes.const_value
    assert tensor is not None, "codes are constants"
    scheme = f"{str(tensor.dtype).lower()}, {how}"
    return ForeignSite(node, kind, codes, scheme, tensor.nbytes)


def _constant(value: ir.Value | None) -> ir.Value | None:
    """``value`` where it is an initializer, or what a QuantizeLinear is given of one."""
    if value is None:
        return None
    producer = value.producer()
    if producer is not None and producer.op_type in ("QuantizeLinear", *_ARRANGING):
        return _constant(input_at(producer, 0))
    return value if value.is_initializer() and value.const_value is not None else None
