"""How far the values inside a model have moved, along its depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from bitfold.frontend.op_costs import qualified
from bitfold.passes.core.compare import compare_outputs, is_float
from bitfold.passes.core.context import Feeds
from bitfold.passes.core.report import ValueDivergence
from bitfold.passes.core.verify import computed_names
from bitfold.runtime.errors import BitfoldError
from bitfold.runtime.execution import open_session

MOST = 160
"""Values compared at most: more points than a plot can show, and each costs a part of a run."""
CHUNK_BYTES = 64 << 20
"""Values are compared in chunks whose arrays fit in about this much memory."""

_MOVES = ("Cast", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that only move values about: what they give has diverged just as what they take."""

_LINEAR = ("MatMul", "Gemm", "Conv", "LowBitMatMul", "LowBitConv", "MatMulNBits", "Add")
"""Operators whose results are compared first: sites and the residual stream."""


def value_divergence(
    before: ir.Model,
    after: ir.Model,
    feeds: Feeds,
    progress: Callable[[str, float], None] = lambda text, fraction: None,
) -> list[ValueDivergence]:
    """Compare the float values that both models name, on one set of inputs, in order of depth.

    What is compared is each model on its own from the inputs on, so that errors add up along the
    depth as they do in use. What operators give that only move values about is left out; outputs
    of the graph are not. Where there are more than `MOST` values, results of linear operators
    are kept, and of those as many at even distances. Values of other shapes than before, or that
    one of the models cannot give, are left out.

    Args:
        before: the model before the first lossy pass: later than the original, whose values
            other exact passes may have scaled or rotated.
        after: the result.
    """
    producers = {value.name: node for node in after.graph for value in node.outputs}
    ours = set(computed_names(before.graph))
    shared = [name for name in computed_names(after.graph) if name in ours]
    outputs = {value.name for value in after.graph.outputs}
    shared = [n for n in shared if producers[n].op_type not in _MOVES or n in outputs]
    names = _chosen(shared, producers)
    found: list[ValueDivergence] = []
    start, size = 0, 8
    while start < len(names):
        progress("comparing values", start / len(names))
        part = names[start : start + size]
        pairs = _both(before, after, feeds, part)
        nbytes = 0
        for name, (expected, value) in pairs.items():
            nbytes += expected.nbytes + value.nbytes
            if not is_float(expected) or value.shape != expected.shape or not expected.size:
                continue
            apart = compare_outputs([({"value": expected}, {"value": value})])
            node = producers[name]
            found.append(
                ValueDivergence(name, node.name or "", qualified(node), apart.sqnr_db, apart.cosine)
            )
        start += len(part)
        size = int(np.clip(CHUNK_BYTES // max(1, nbytes // max(1, len(pairs))), 1, 4 * size))
    return found


def _chosen(names: Sequence[str], producers: dict[str | None, ir.Node]) -> list[str]:
    if len(names) > MOST:
        names = [name for name in names if producers[name].op_type in _LINEAR] or names
    if len(names) > MOST:
        picks = np.linspace(0, len(names) - 1, MOST).round().astype(int)
        names = [names[index] for index in picks]
    return list(names)


def _both(
    before: ir.Model, after: ir.Model, feeds: Feeds, names: list[str]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The values in both models; halves where one of them cannot be an output."""
    try:
        expected = open_session(before, outputs=names, optimize=False).run(feeds)
        found = open_session(after, outputs=names, optimize=False).run(feeds)
    except BitfoldError:
        if len(names) == 1:
            return {}
        half = len(names) // 2
        parts = (names[:half], names[half:])
        return {k: v for part in parts for k, v in _both(before, after, feeds, part).items()}
    both = {name: (expected[name], found[name]) for name in names}
    # What is no tensor (a sequence, an optional) tells nothing.
    return {name: pair for name, pair in both.items() if all(hasattr(x, "nbytes") for x in pair)}
