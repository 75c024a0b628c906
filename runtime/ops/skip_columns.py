"""Skipped columns with stock ops: a row's inputs that weigh least, taken as zeros."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bitfold.runtime.ops.body import Body
from bitfold.runtime.reference.skip_columns import RUN, kept_runs


def kept_columns(body: Body, x: ir.Value, norms: ir.Value, k: int, keep: float) -> ir.Value:
    """Add the nodes that zero the runs of ``x`` [..., k] that are not kept."""
    runs = -(-k // RUN)
    apart = body.reshape(body.pad_last(x, runs * RUN - k), -1, runs, RUN)
    weights = body.reshape(body.pad_last(norms, runs * RUN - k), runs, RUN)
    scores = body("Mul", body("Abs", apart), weights)
    scores = body("ReduceSum", scores, body.ints(2), keepdims=0)
    best = body.op_multi_out(
        "TopK", [scores, body.ints(kept_runs(k, keep))], {"axis": -1}, num_outputs=2
    )[1]
    none = body("ConstantOfShape", body("Shape", scores))
    one = ir.tensor(np.ones(1, np.float32))
    all_of = body("ConstantOfShape", body("Shape", best), value=one)
    chosen = body("ScatterElements", none, best, all_of, axis=1)
    broken = body.to_float(body("IsNaN", scores))
    broken = body("ReduceMax", broken, body.ints(1), keepdims=1)
    chosen = body("Greater", body("Add", chosen, broken), body.floats(0.5))
    kept = body("Where", body.reshape(chosen, -1, runs, 1), apart, body.floats(0.0))
    rows = body.slice(body.reshape(kept, -1, runs * RUN), 1, 0, k)
    return body("Reshape", rows, body("Shape", x))
