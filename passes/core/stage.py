"""A stage: the model between two passes, with its outputs on the samples, each computed once."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bitfold.passes.core.compare import flat_outputs
from bitfold.passes.core.context import Feeds
from bitfold.passes.core.own_coordinates import to_original, to_own
from bitfold.runtime.execution import Execution, open_session


class Stage:
    """One state of the model; its outputs are computed when first asked for, and kept.

    Attributes:
        model: the state.
        runs: what is run for it: the model, or a stand-in that computes the same.
    """

    def __init__(self, model: ir.Model, samples: Sequence[Feeds], threads: int = 0) -> None:
        self.model = model
        self.runs = model
        self.samples = samples
        self.threads = threads
        self._execution: Execution | None = None
        self._outputs: dict[int, dict[str, np.ndarray]] = {}
        self._tried: list[tuple[Feeds, dict[str, np.ndarray]]] = []

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Run the stage's model; the session stays open until :meth:`close`.

        ORT's optimizer stays off: it would copy the weights, and hide where rounding comes from.
        Caches go in and come out in the original coordinates, whatever the model's own are.
        """
        graph = self.model.graph
        found = self.open().run(to_own(graph.inputs, feeds))
        return to_original(graph.outputs, flat_outputs(found))

    def open(self) -> Execution:
        """The session, which is opened where it is not yet."""
        if self._execution is None:
            self._execution = open_session(self.runs, threads=self.threads, optimize=False)
        return self._execution

    def try_out(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Run ``feeds`` before it is a sample, and keep the outputs for when it becomes one."""
        outputs = self.run(feeds)
        self._tried.append((feeds, outputs))
        return outputs

    def take_samples(self, samples: Sequence[Feeds]) -> None:
        """Set the samples, some of which :meth:`try_out` may have run."""
        self.samples = samples
        for index, feeds in enumerate(samples):
            for tried, outputs in self._tried:
                if tried is feeds:
                    self._outputs[index] = outputs
        self._tried.clear()

    def outputs(self, index: int) -> dict[str, np.ndarray]:
        """The outputs on sample ``index``."""
        if index not in self._outputs:
            self._outputs[index] = self.run(self.samples[index])
        return self._outputs[index]

    @property
    def computed(self) -> dict[int, dict[str, np.ndarray]]:
        """The outputs that were asked for so far, by sample."""
        return dict(self._outputs)

    def followed_by(self, model: ir.Model) -> Stage:
        """A stage of ``model``, which computes the same as this one: outputs are shared."""
        stage = Stage(model, self.samples, self.threads)
        if self.runs is not self.model:
            stage.runs = self.runs
        stage._outputs = self._outputs
        return stage

    def close(self) -> None:
        """Close the session; outputs that were computed stay."""
        self._execution = None


def snapshot(model: ir.Model) -> ir.Model:
    """A clone that shares the tensors and nothing else, in time linear in the graph.

    ``ir.Model.clone`` alone also shares the types: setting a value's dtype in the clone would
    change the original's.
    """
    copied = model.clone()
    for function in [None, *copied.functions.values()]:
        graph = copied.graph if function is None else function.graph
        for value in [*graph.inputs, *graph.initializers.values()]:
            value.type = copy.deepcopy(value.type)
        for node in ir.traversal.RecursiveGraphIterator(graph):
            for value in node.outputs:
                value.type = copy.deepcopy(value.type)
    return copied


def same_computation(a: ir.Model, b: ir.Model) -> bool:
    """Whether two models have the same nodes on the very same tensors (metadata apart)."""
    if list(a.functions) != list(b.functions) or a.opset_imports != b.opset_imports:
        return False
    graphs = [(a.graph, b.graph)]
    graphs += [(a.functions[key].graph, b.functions[key].graph) for key in a.functions]
    return all(_same_graph(x, y) for x, y in graphs)


def _same_graph(a: ir.Graph, b: ir.Graph) -> bool:
    if len(a) != len(b) or _names(a.inputs) != _names(b.inputs):
        return False
    if _names(a.outputs) != _names(b.outputs) or list(a.initializers) != list(b.initializers):
        return False
    pairs = zip(a.initializers.values(), b.initializers.values(), strict=True)
    if any(x.const_value is not y.const_value for x, y in pairs):
        return False
    return all(_same_node(x, y) for x, y in zip(a, b, strict=True))


def _same_node(a: ir.Node, b: ir.Node) -> bool:
    if a.op_identifier() != b.op_identifier() or a.version != b.version:
        return False
    if _names(a.inputs) != _names(b.inputs) or _names(a.outputs) != _names(b.outputs):
        return False
    if set(a.attributes) != set(b.attributes):
        return False
    return all(_same_attribute(x, b.attributes[name]) for name, x in a.attributes.items())


def _same_attribute(a: ir.Attr, b: ir.Attr) -> bool:
    if a.type != b.type or a.is_ref() != b.is_ref():
        return False
    if a.is_ref():
        return a.ref_attr_name == b.ref_attr_name
    if a.type == ir.AttributeType.GRAPH:
        return _same_graph(a.as_graph(), b.as_graph())
    if a.type == ir.AttributeType.GRAPHS:
        pairs = list(zip(a.as_graphs(), b.as_graphs(), strict=False))
        return len(a.as_graphs()) == len(b.as_graphs()) and all(_same_graph(x, y) for x, y in pairs)
    if a.type == ir.AttributeType.TENSOR:
        return a.value is b.value
    return bool(a.value == b.value)


def _names(values: Sequence[ir.Value | None]) -> list[str | None]:
    return [None if value is None else value.name for value in values]
