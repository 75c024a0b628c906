"""What a model's file holds besides the weights that are to be quantized."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from bitfold.passes.core.stage import snapshot

BODIES = 1 << 15
"""Bytes that the operators' bodies in standard ONNX take, or most of them."""


def stored_besides(model: ir.Model, sources: Collection[ir.Value]) -> int:
    """Bytes of a model's file, once it is lowered, without those of ``sources``: an estimate."""
    names = {value.name for value in sources}
    bare = snapshot(model)
    held = 0
    for name, value in list(bare.graph.initializers.items()):
        if value.const_value is not None and name not in names:
            held += value.const_value.nbytes
        if value.const_value is not None and not value.is_graph_input():
            del bare.graph.initializers[name]
    return held + BODIES + len(ir.to_proto(bare).SerializeToString())
