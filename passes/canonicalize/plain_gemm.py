"""Bring Gemm to its plain form: factors of 1, and a vector for a bias."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bitfold.passes.core.context import Context
from bitfold.passes.core.report import PassEntry
from bitfold.passes.core.rewire import constant, set_input


def plain_gemms(model: ir.Model, context: Context, entry: PassEntry) -> bool:
    """Put constant factors of Gemm into its weight and bias; make the bias a float vector [N].

    Only then is a Gemm a linear layer that the other passes know.  A weight that others read, and
    one that is not constant, keeps its factor.  Weights are read one at a time.

    Returns:
        Whether anything changed.
    """
    changed = False
    for node in model.graph.all_nodes():
        if node.op_type == "Gemm" and node.domain == "":
            done = [text for text in (_bias(node, context), _weight(node, context)) if text]
            if done:
                entry.changed(node.name or str(node.outputs[0].name), f"Gemm: {', '.join(done)}")
                changed = True
    return changed


def _bias(node: ir.Node, context: Context) -> str:
    """Give the node a bias [N] without a factor; say so where it had another."""
    beta = node.attributes.get_float("beta", 1.0)
    bias, weight = node.inputs[2] if len(node.inputs) > 2 else None, node.inputs[1]
    if bias is None:
        node.attributes.pop("beta", None)
        return ""
    array = constant(bias)
    if array is None or array.dtype != np.float32 or weight is None or weight.shape is None:
        return ""
    n = weight.shape[0 if node.attributes.get_int("transB", 0) else 1]
    # Anything but one row is added row by row, and is no bias.
    one_row = array.ndim < 2 or (array.ndim == 2 and array.shape[0] == 1)
    if not isinstance(n, int) or not one_row or (beta == 1.0 and array.shape == (n,)):
        return ""
    plain = np.broadcast_to(array.reshape(-1) * np.float32(beta), (n,))
    set_input(node, 2, np.ascontiguousarray(plain), context, "bias")
    node.attributes.pop("beta", None)
    return f"the bias made a vector of {n}" if beta == 1.0 else f"{beta:g} put into the bias"


def _weight(node: ir.Node, context: Context) -> str:
    """Put the product's factor into its weight; say so where there was one."""
    alpha = node.attributes.get_float("alpha", 1.0)
    weight = node.inputs[1]
    if (
        alpha == 1.0
        or weight is None
        or len(weight.uses()) != 1
        or weight.dtype != ir.DataType.FLOAT
    ):
        return ""
    array = constant(weight)
    if array is None:
        return ""
    set_input(node, 1, array * np.float32(alpha), context, "scaled")
    node.attributes.pop("alpha", None)
    return f"{alpha:g} put into the weight"
