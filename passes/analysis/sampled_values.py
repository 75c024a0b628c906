"""What values inside a model are on sample inputs, a few of them at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from bitfold.passes.core.context import Feeds
from bitfold.passes.core.own_coordinates import to_own
from bitfold.runtime.execution import open_session

BUDGET = 96 << 20
"""Bytes of activations that one run hands over."""


def values_on(
    model: ir.Model, names: Sequence[str], samples: Sequence[Feeds], budget: int = BUDGET
) -> Iterator[tuple[list[str], Iterator[Mapping[str, np.ndarray]]]]:
    """The values in groups that fit in the budget: a group's names, and its arrays on each sample.

    The model runs on every sample once for each group, and once more on a sample of each shape,
    to learn how large the values are.

    Args:
        names: values of the main graph.
        samples: in the original coordinates.
        budget: bytes; a value that is larger has a group to itself.
    """
    if not names or not samples:
        return
    own = [to_own(model.graph.inputs, feeds) for feeds in samples]
    sizes = _sizes(model, names, own)
    group: list[str] = []
    held = 0
    for name in names:
        if group and held + sizes[name] > budget:
            yield group, _runs(model, group, own)
            group, held = [], 0
        group.append(name)
        held += sizes[name]
    yield group, _runs(model, group, own)


def _runs(
    model: ir.Model, names: Sequence[str], samples: Sequence[Feeds]
) -> Iterator[Mapping[str, np.ndarray]]:
    session = open_session(model, outputs=names, optimize=False)
    for feeds in samples:
        yield session.run(feeds)


def _sizes(model: ir.Model, names: Sequence[str], samples: Sequence[Feeds]) -> dict[str, int]:
    """Bytes of each value, as float32, on the sample where it is largest."""
    probe = model.clone()
    values = {value.name: value for value in probe.graph.inputs}
    values |= {value.name: value for node in probe.graph for value in node.outputs}
    counts = {}
    for index, name in enumerate(names):
        node = ir.node("Size", [values[name]])
        (counted,) = node.outputs
        counted.name, counted.dtype = f"bitfold.size.{index}", ir.DataType.INT64
        probe.graph.append(node)
        counts[name] = counted
    probe.graph.outputs.extend(counts.values())
    session = open_session(probe, outputs=[str(v.name) for v in counts.values()], optimize=False)
    shapes = {tuple(array.shape for array in feeds.values()): feeds for feeds in samples}
    found = [session.run(feeds) for feeds in shapes.values()]
    return {
        name: 4 * max(int(each[str(value.name)]) for each in found)
        for name, value in counts.items()
    }
