"""``LowBitGather``: rows of a packed low-bit weight by index; see the package's docstring."""

from __future__ import annotations

import onnx_ir as ir

from bitfold.runtime.ops.body import Body
from bitfold.runtime.ops.packed import PackedWeight

INPUTS = ["packed", "scales", "zero_points", "table", "indices"]


def lowbit_gather(weight: PackedWeight) -> ir.Function:
    """The function body for one packed weight."""
    body = Body(INPUTS)
    packed, scales, zeros, table, indices = body.inputs
    rows = body("Gather", weight.unpacked(body, [packed, scales, zeros, table]), indices, axis=0)
    return body.function("LowBitGather", weight.overload(), rows, weight.attributes())
