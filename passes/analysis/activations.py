"""Measure what flows through a model: statistics of a value's channels over sample inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from bitfold.passes.core.context import Feeds
from bitfold.passes.core.own_coordinates import to_own
from bitfold.runtime.execution import Execution, open_session

REDUCTIONS = {
    "low": "ReduceMin",
    "high": "ReduceMax",
    "mean": "ReduceMean",
    "magnitude": "ReduceL1",
}
"""What the graph itself computes over the rows of a value, so that no activation is kept."""


@dataclass(frozen=True)
class ChannelStatistics:
    """What was seen of the C channels of a value.

    Attributes:
        low: smallest value, f64[C].
        high: largest value, f64[C].
        mean: mean over rows and then over samples, f64[C].
        magnitude: mean absolute value, likewise.
        rows: some of the rows, float32 [R, C].
    """

    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    magnitude: np.ndarray
    rows: np.ndarray

    @property
    def reach(self) -> np.ndarray:
        """The largest absolute value, f64[C]."""
        found: np.ndarray = np.maximum(np.abs(self.low), np.abs(self.high))
        return found

    @property
    def finite(self) -> bool:
        """Whether every value was finite."""
        return bool(np.isfinite(self.reach).all() and np.isfinite(self.mean).all())


def channel_statistics(
    model: ir.Model,
    axes: Mapping[str, tuple[int, ...]],
    samples: Sequence[Feeds],
    rows: int = 0,
) -> dict[str, ChannelStatistics]:
    """Statistics over samples of values of the main graph.

    The graph reduces each value as soon as it has it: memory grows with channels and ``rows``,
    not with the inputs.

    Args:
        model: it stays as it is.
        axes: of each value, by name, the axes that hold its channels, rising; the others are rows.
        samples: inputs to run it on, each of the same weight, in the original coordinates.
        rows: about how many rows to keep of each value, spread evenly over all of them.

    Returns:
        By the value's name; empty without samples.  A sample in which a value has no rows (an
        encoder's frames that a cache holds already) says nothing of it; where none has any, its
        statistics are no numbers.
    """
    if not axes or not samples:
        return {}
    each = -(-rows // len(samples))
    probe = _Probe(model, each)
    for name, held in axes.items():
        probe.watch(name, held)
    session = probe.session()
    totals: dict[str, dict[str, np.ndarray]] = {}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in axes}
    counts = dict.fromkeys(axes, 0)
    for feeds in samples:
        found = session.run(to_own(model.graph.inputs, feeds))
        for name in axes:
            seen = {
                kind: found[probe.output(name, kind)].reshape(-1).astype(np.float64)
                for kind in REDUCTIONS
            }
            count = int(found[probe.output(name, "count")])
            if not count:
                seen = {kind: np.full(array.size, np.nan) for kind, array in seen.items()}
                totals.setdefault(name, seen)
                continue
            seen["magnitude"] /= count
            totals[name] = _joined(totals[name], seen) if counts[name] else seen
            counts[name] += 1
            if each:
                parts[name].append(found[probe.output(name, "rows")].astype(np.float32))
    for name, seen in totals.items():
        seen["mean"] /= max(1, counts[name])
        seen["magnitude"] /= max(1, counts[name])
    return {
        name: ChannelStatistics(
            **seen,
            rows=np.concatenate(parts[name]) if parts[name] else np.empty((0, len(seen["mean"]))),
        )
        for name, seen in totals.items()
    }


def _joined(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    join = {"low": np.minimum, "high": np.maximum}
    return {kind: join.get(kind, np.add)(a[kind], b[kind]) for kind in a}


class _Probe:
    """A copy of a model that also computes statistics of its values."""

    def __init__(self, model: ir.Model, rows: int) -> None:
        self.model = model.clone()
        self.rows = rows
        graph = self.model.graph
        self.values = {str(value.name): value for value in graph.inputs}
        self.values |= {str(name): value for name, value in graph.initializers.items()}
        self.values |= {str(v.name): v for node in graph for v in node.outputs}
        self.outputs: list[str] = []

    def session(self) -> Execution:
        """Ready to run; its outputs are the statistics alone."""
        return open_session(self.model, outputs=self.outputs, optimize=False)

    @staticmethod
    def output(name: str, kind: str) -> str:
        """The output that holds a statistic of a value."""
        return f"bitfold.{kind}.{name}"

    def watch(self, name: str, axes: tuple[int, ...]) -> None:
        """Compute the statistics of a value, whose rank is known."""
        value = self.values[name]
        assert value.shape is not None, "callers know what the axes mean"
        rank, dtype = len(value.shape), value.dtype or ir.DataType.FLOAT
        if rank == 1:
            value = self._node("Reshape", [value, self._ints(1, -1)], dtype)
            rank, axes = 2, (1,)
        held = tuple(axis % rank for axis in axes)
        others = tuple(axis for axis in range(rank) if axis not in held)
        for kind, op in REDUCTIONS.items():
            reduced = self._node(op, [value, self._ints(*others)], dtype, {"keepdims": 0})
            self._keep(reduced, self.output(name, kind))
        shape = self._node("Shape", [value], ir.DataType.INT64)
        lengths = self._node("Gather", [shape, self._ints(*others)], ir.DataType.INT64)
        count = self._node("ReduceProd", [lengths], ir.DataType.INT64, {"keepdims": 0})
        self._keep(count, self.output(name, "count"))
        if self.rows:
            last = self._node("Transpose", [value], dtype, {"perm": [*others, *held]})
            widths = self._node("Gather", [shape, self._ints(*held)], ir.DataType.INT64)
            width = self._node("ReduceProd", [widths], ir.DataType.INT64, {"keepdims": 1})
            flat = self._node("Concat", [self._ints(-1), width], ir.DataType.INT64, {"axis": 0})
            table = self._node("Reshape", [last, flat], dtype)
            picked = self._node("Gather", [table, self._places(count)], dtype)
            self._keep(picked, self.output(name, "rows"))

    def _places(self, count: ir.Value) -> ir.Value:
        """One row out of each of equal stretches, at random places: no image's width shows."""
        jitter = np.random.default_rng(0).uniform(size=self.rows)
        shares = self._constant((np.arange(self.rows) + jitter) / self.rows)
        some = self._node("Min", [count, self._constant(np.array(1))], ir.DataType.INT64)
        wanted = self._node("Mul", [some, self._ints(self.rows)], ir.DataType.INT64)
        shares = self._node("Slice", [shares, self._ints(0), wanted], ir.DataType.DOUBLE)
        number = self._node("Cast", [count], ir.DataType.DOUBLE, {"to": ir.DataType.DOUBLE})
        spread = self._node("Mul", [shares, number], ir.DataType.DOUBLE)
        return self._node("Cast", [spread], ir.DataType.INT64, {"to": ir.DataType.INT64})

    def _node(
        self,
        op: str,
        inputs: list[ir.Value],
        dtype: ir.DataType,
        attributes: Mapping[str, Any] | None = None,
    ) -> ir.Value:
        node = ir.node(op, inputs, attributes)
        node.outputs[0].dtype = dtype
        node.outputs[0].name = f"bitfold.probe.{len(self.model.graph)}"
        self.model.graph.append(node)
        return node.outputs[0]

    def _keep(self, value: ir.Value, name: str) -> None:
        value.name = name
        self.model.graph.outputs.append(value)
        self.outputs.append(name)

    def _ints(self, *numbers: int) -> ir.Value:
        return self._constant(np.array(numbers, np.int64))

    def _constant(self, array: np.ndarray) -> ir.Value:
        name = f"bitfold.constant.{len(self.model.graph.initializers)}"
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        self.model.graph.register_initializer(value)
        return value
