"""Tokens that draw attention whatever they say, told from the attention of sample inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import onnx_ir as ir

from bitfold.passes.analysis.outliers import sink_tokens
from bitfold.passes.core.context import Feeds
from bitfold.runtime.execution import open_session

SOFTMAX = 3
"""Attention's `qk_matmul_output_mode` that gives the probabilities."""


def sinks_of(model: ir.Model, samples: Sequence[Feeds]) -> Counter[int]:
    """How often each place among the keys is a sink, over samples and attention layers.

    One layer is looked at in a run, so that one layer's probabilities are held at a time.

    Args:
        model: with standard Attention operators; others are left out.
    """
    found: Counter[int] = Counter()
    layers = [index for index, node in enumerate(model.graph) if node.op_type == "Attention"]
    for index in layers:
        probe = model.clone()
        node = list(probe.graph)[index]
        if len(node.outputs) < 4:
            node.resize_outputs(4)
        node.attributes["qk_matmul_output_mode"] = ir.AttrInt64("qk_matmul_output_mode", SOFTMAX)
        given = node.outputs[3]
        given.name, given.dtype = "bitfold.probabilities", ir.DataType.FLOAT
        session = open_session(probe, outputs=[given.name], optimize=False)
        for feeds in samples:
            for heads in session.run(feeds)[given.name]:
                found.update(sink_tokens(heads).tolist())
    return found
