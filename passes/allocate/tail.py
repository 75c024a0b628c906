"""The part of a model that some weights can change, to be run alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bitfold.passes.core.context import Feeds
from bitfold.passes.core.stage import snapshot
from bitfold.runtime.execution import NUMPY_LACKS, Execution, open_session, used_names


@dataclass(frozen=True)
class Tail:
    """All nodes whose outputs depend on some weights: in a chain of layers, those from there on.

    Attributes:
        weights: names of initializers of the main graph.
        given: names of values that the nodes read, and that depend on inputs of the model but on
            none of the weights: they can be computed once.
        outputs: names of the graph's outputs that depend on the weights.
    """

    weights: tuple[str, ...]
    given: tuple[str, ...]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, graph: ir.Graph, weights: Collection[str]) -> Tail:
        """The tail behind some weights of a sorted graph."""
        changed, varying, given = set(weights), {value.name for value in graph.inputs}, set[str]()
        inner: set[str] = set()
        for node in graph:
            read, computed = used_names(node), {str(value.name) for value in node.outputs}
            if not changed.isdisjoint(read):
                given |= (read & inner) - changed
                changed |= computed
            # What is computed from weights alone is as large as they are: it is computed again.
            if not varying.isdisjoint(read):
                varying |= computed
                inner |= {str(each.name) for each in node.outputs if each.dtype not in NUMPY_LACKS}
        every = tuple(str(value.name) for value in graph.outputs)
        outputs = tuple(name for name in every if name in changed)
        return cls(tuple(weights), tuple(sorted(given)), outputs or every)

    def session(self, model: ir.Model, known: Mapping[str, np.ndarray]) -> Execution:
        """A session of the tail, which takes the weights and the values ``known`` as inputs."""
        tail = snapshot(model)
        graph = tail.graph
        values = ir.convenience.create_value_mapping(graph, include_subgraphs=False)
        for name in self.given:
            if name not in known:
                continue
            before = values[name]
            value = ir.Value(name=_given(name), shape=ir.Shape([None] * known[name].ndim))
            value.dtype = before.dtype or ir.DataType.from_numpy(known[name].dtype)
            for user, index in list(before.uses()):
                user.replace_input_with(index, value)
            graph.inputs.append(value)
        for name in self.weights:
            weight = graph.initializers.pop(name)
            weight.const_value = None
            graph.inputs.append(weight)
        return open_session(tail, outputs=self.outputs, optimize=False)

    def feeds(self, known: Mapping[str, np.ndarray]) -> Feeds:
        """What a session of the tail reads of the values ``known``, by its inputs' names."""
        return {_given(name): known[name] for name in self.given if name in known}


def array_of(source: ir.Value) -> np.ndarray:
    """An initializer's numbers."""
    assert source.const_value is not None, "an initializer has a value"
    return source.const_value.numpy()


def _given(name: str) -> str:
    return f"{name}/given"
