"""What a model's file holds besides the weights that are to be quantized."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from bitfold.passes.core.stage import snapshot

BODY = 7000
"""Bytes, or a few more, of an operator's body in standard ONNX: one for each shape and scheme."""


def stored_besides(model: ir.Model, sources: Collection[ir.Value]) -> int:
    """Bytes of a model's file without those of ``sources``; lowering adds operators' bodies."""
    names = {value.name for value in sources}
    bare = snapshot(model)
    held = 0
    for name, value in list(bare.graph.initializers.items()):
        if value.const_value is not None and name not in names:
            held += value.const_value.nbytes
        if value.const_value is not None and not value.is_graph_input():
            del bare.graph.initializers[name]
    return held + len(ir.to_proto(bare).SerializeToString())
