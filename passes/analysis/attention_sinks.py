"""Tokens that draw attention whatever they say, told from the attention of sample inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.outliers import sink_tokens
from bitfold.passes.core.context import Feeds
from bitfold.passes.core.own_coordinates import to_own
from bitfold.runtime.execution import open_session

SOFTMAX = 3
"""Attention's `qk_matmul_output_mode` that gives the probabilities."""


@dataclass(frozen=True)
class Sinks:
    """Sink tokens of a model.

    Attributes:
        attentions: attention operators that were looked at, on each of the samples' sequences.
        tokens: places among the keys, each with how many of these it is a sink in, the most first.
    """

    attentions: int = 0
    tokens: dict[int, int] = field(default_factory=dict)


def find_sinks(model: ir.Model, samples: Sequence[Feeds]) -> Sinks:
    """The tokens that are a sink of some head; in a cache, they count from its beginning.

    The graph itself sums up the probabilities over the queries: they are not kept.

    Args:
        model: with standard Attention operators; others are left out.
        samples: in the original coordinates.
    """
    probe = model.clone()
    layers = [node for node in probe.graph if node.op_type == "Attention" and node.domain == ""]
    sums = [_summed(probe.graph, node, index) for index, node in enumerate(layers)]
    if not sums:
        return Sinks()
    session = open_session(
        probe, outputs=[each for layer in sums for each in layer], optimize=False
    )
    found: Counter[int] = Counter()
    attentions = 0
    for feeds in samples:
        arrays = session.run(to_own(model.graph.inputs, feeds))
        for layer in sums:
            for heads in zip(*(arrays[each] for each in layer), strict=True):
                attentions += 1
                found.update(sink_tokens(*heads).tolist())
    return Sinks(attentions, dict(found.most_common()))


def _summed(graph: ir.Graph, node: ir.Node, index: int) -> list[str]:
    """Sum up over a layer's queries what :func:`.sink_tokens` wants; the names of the sums."""
    if len(node.outputs) < 4:
        node.resize_outputs(4)
    node.attributes["qk_matmul_output_mode"] = ir.AttrInt64("qk_matmul_output_mode", SOFTMAX)
    for place, output in enumerate(node.outputs):
        if not output.name:
            output.name, output.type = f"bitfold.attention.{index}.{place}", node.outputs[0].type
    probabilities = node.outputs[3]

    def add(op: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        made = ir.node(op, inputs, attributes)
        made.outputs[0].name = f"bitfold.sinks.{len(graph)}"
        made.outputs[0].dtype = ir.DataType.FLOAT
        graph.append(made)
        return made.outputs[0]

    def constant(name: str, array: np.ndarray) -> ir.Value:
        value = ir.Value(name=f"bitfold.{name}.{index}", const_value=ir.tensor(array))
        graph.register_initializer(value)
        return value

    queries, keys = (
        constant(*each) for each in (("queries", np.array([2])), ("keys", np.array([3])))
    )
    given = add("Cast", probabilities, to=int(ir.DataType.FLOAT))
    seen = add("Sign", given)
    most = add("Max", add("ReduceSum", seen, keys), constant("one", np.ones(1, np.float32)))
    sums = [
        add("ReduceSum", each, queries, keepdims=0)
        for each in (given, add("Div", seen, most), seen)
    ]
    graph.outputs.extend(sums)
    return [str(each.name) for each in sums]
