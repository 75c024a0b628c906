"""What is timed: a model of a node or a few, the bytes of its weight, what it must give."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from bitfold.runtime.op_library import op_library_path

MOST_COPIES = 512
"""Nodes of a model at most: ORT takes long to open more."""

FASTEST = 1e12
"""Operations a second that no core exceeds by much."""
SHORTEST_RUN = 200e-6
"""Seconds that a run takes at least: Python and ORT take a few millionths of one to start it."""


@dataclass(frozen=True)
class Subject:
    """One kernel on one weight.

    Attributes:
        name: what the table calls it.
        model: a model of a node or a few from X to Y, its weight in initializers.
        weights: how many numbers the weight has.
        size: bytes of the weight with its scales, as the kernel reads them.
        expected: Y for rows of X, from the reference.
        tolerance: largest error that is taken, relative to the largest output.
    """

    name: str
    model: onnx.ModelProto
    weights: int
    size: int
    expected: Callable[[np.ndarray], np.ndarray]
    tolerance: float


def copies_for(size: int, working_set: int) -> int:
    """How many weights of ``size`` bytes fill a working set."""
    return min(MOST_COPIES, max(1, math.ceil(working_set / size)))


def repeated(model: onnx.ModelProto, nodes: int, own_weights: bool) -> onnx.ModelProto:
    """``nodes`` times the nodes of a model, which make Y of X, each time an output of its own.

    Each has weights of its own too, no two of them equal, or an X: ORT would merge equal nodes.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    own = {name for node in graph.node for name in node.output}
    own |= weights if own_weights else {"X"}
    for index in range(1, nodes):
        if own_weights:
            for tensor in graph.initializer:
                flat = np.roll(numpy_helper.to_array(tensor).reshape(-1), index)
                other = numpy_helper.from_array(flat.reshape(tensor.dims), f"{tensor.name}{index}")
                result.graph.initializer.append(other)
        else:
            result.graph.input.add().CopyFrom(graph.input[0])
            result.graph.input[-1].name = f"X{index}"
        for node in graph.node:
            copy = result.graph.node.add()
            copy.CopyFrom(node)
            copy.name = f"{node.name}{index}"
            for names in (copy.input, copy.output):
                names[:] = [f"{name}{index}" if name in own else name for name in names]
        result.graph.output.add().CopyFrom(graph.output[0])
        result.graph.output[-1].name = f"Y{index}"
    return result


def checked_rows(m: int) -> list[int]:
    """The rows of ``m`` that are compared: at either end, in different blocks of rows."""
    return sorted({*range(min(4, m)), *range(max(0, m - 2), m)})


class Run:
    """A subject in a session, its input and outputs in place, its first output checked.

    Its node is repeated, ``copies`` times with weights of its own, or, where that is 1, with one
    weight so often that what it costs to start a run does not count.

    Raises:
        SystemExit: the output is not what the reference gives.
    """

    def __init__(self, subject: Subject, x: np.ndarray, copies: int, threads: int) -> None:
        self.subject, self.threads = subject, threads
        self.working_set = subject.size * copies
        shortest = 2 * len(x) * subject.weights / FASTEST
        self._nodes = copies if copies > 1 else min(32, math.ceil(SHORTEST_RUN / shortest))
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        options.register_custom_ops_library(str(op_library_path()))
        model = repeated(subject.model, self._nodes, copies > 1).SerializeToString()
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._bound = self._session.io_binding()
        held = ort.OrtValue.ortvalue_from_numpy(x)
        for given in self._session.get_inputs():
            self._bound.bind_ortvalue_input(given.name, held)
        for output in self._session.get_outputs():
            self._bound.bind_output(output.name)
        self._session.run_with_iobinding(self._bound)
        self._check(x)

    def _check(self, x: np.ndarray) -> None:
        rows = checked_rows(len(x))
        expected = self.subject.expected(x[rows])
        y = self._bound.get_outputs()[0].numpy()[rows]
        error = float(np.abs(y - expected).max() / np.abs(expected).max())
        if not error <= self.subject.tolerance:
            raise SystemExit(
                f"{self.subject.name}: error {error:.3g}, tolerance {self.subject.tolerance:.3g}"
            )

    def seconds(self, at_least: float) -> float:
        """Median time of one node, over runs that take ``at_least`` seconds together."""
        if self.threads > 1:
            time.sleep(0.03)  # threads of other sessions wait busily for a while
        self._session.run_with_iobinding(self._bound)
        times: list[float] = []
        start = time.perf_counter()
        while time.perf_counter() - start < at_least or len(times) < 3:
            begin = time.perf_counter()
            self._session.run_with_iobinding(self._bound)
            times.append(time.perf_counter() - begin)
        return statistics.median(times) / self._nodes
