"""``SwiGLU``: ``silu(gate) * up`` of rows that hold gate and up side by side.

Input f32 [..., 2F], the gate first; output f32 [..., F] (Shazeer, arXiv 2002.05202).
"""

from __future__ import annotations

import onnx_ir as ir

from bitfold.runtime.ops.body import Body


def gated(body: Body, both: ir.Value) -> ir.Value:
    """Add the nodes that compute ``silu(gate) * up``."""
    gate, up = body.op_multi_out("Split", [both], {"axis": -1, "num_outputs": 2}, num_outputs=2)
    return body("Mul", body("Mul", gate, body("Sigmoid", gate)), up)


def swiglu() -> ir.Function:
    """The function; it has no attributes and fits every shape."""
    body = Body(["X"])
    return body.function("SwiGLU", "", gated(body, body.inputs[0]), {})
