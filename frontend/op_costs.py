"""What each operator costs, before and after: nodes, bytes of weights, and time in a profile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import onnx_ir as ir

from bitfold.passes.core.report import OpCost


def qualified(node: ir.Node) -> str:
    """An operator's name, with its domain unless it is the standard one."""
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def op_costs(
    before: ir.Model,
    after: ir.Model,
    times_before: Mapping[str, float] | None = None,
    times: Mapping[str, float] | None = None,
) -> list[OpCost]:
    """The costs of every operator of two models, the most expensive first.

    Args:
        before: the original model.
        after: the result.
        times_before: seconds by operator in the original, from `op_times`.
        times: the same for the result.
    """
    nodes = [Counter(map(qualified, model.graph.all_nodes())) for model in (before, after)]
    weights = [op_bytes(model) for model in (before, after)]
    if times_before is not None:
        times_before = _with_domains(times_before, nodes[0])
    if times is not None:
        times = _with_domains(times, nodes[1])
    names = {*nodes[0], *nodes[1], *weights[0], *weights[1], *(times_before or {}), *(times or {})}
    costs = [
        OpCost(
            name,
            nodes[0][name],
            nodes[1][name],
            weights[0][name],
            weights[1][name],
            None if times_before is None else times_before.get(name, 0.0),
            None if times is None else times.get(name, 0.0),
        )
        for name in names
    ]

    def rank(cost: OpCost) -> tuple[float, float, str]:
        return (-(cost.seconds or 0.0) - (cost.seconds_before or 0.0), -_bytes(cost), cost.op)

    return sorted(costs, key=rank)


def op_bytes(model: ir.Model) -> Counter[str]:
    """Bytes of the weights by the operator that reads them; the first reader pays for all.

    A weight in a Constant node belongs to that node's reader.
    """
    sizes: Counter[str] = Counter()
    seen: set[ir.Value] = set()
    for node in model.graph.all_nodes():
        if node.op_type == "Constant":
            continue
        for value in node.inputs:
            if value is None or value in seen:
                continue
            seen.add(value)
            for tensor in _tensors(value):
                sizes[qualified(node)] += tensor.nbytes
    return sizes


def _tensors(value: ir.Value) -> Iterator[ir.TensorProtocol]:
    if value.const_value is not None and value.producer() is None:
        yield value.const_value
    producer = value.producer()
    if producer is not None and producer.op_type == "Constant":
        yield from _constants(producer.attributes.values())


def _constants(attributes: Iterable[ir.Attr]) -> Iterator[ir.TensorProtocol]:
    for attribute in attributes:
        if not attribute.is_ref() and attribute.type == ir.AttributeType.TENSOR:
            yield attribute.as_tensor()


def _with_domains(times: Mapping[str, float], nodes: Iterable[str]) -> dict[str, float]:
    """Times under the names that the model's nodes have; a profile knows no domains."""
    known = {name.rpartition(".")[2]: name for name in nodes}
    return {known.get(name, name): seconds for name, seconds in times.items()}


def _bytes(cost: OpCost) -> int:
    return max(cost.bytes_before, cost.bytes)
