"""Measure what comes into sites: the mean of every input channel over sample inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import Site
from bitfold.passes.core.context import Feeds
from bitfold.runtime.execution import open_session


def mean_inputs(
    model: ir.Model, sites: Sequence[Site], samples: Sequence[Feeds]
) -> dict[str, np.ndarray]:
    """Mean over samples and pixels of each channel of the sites' inputs [n, C, ...].

    The graph computes the means itself, so that no activation is kept.

    Args:
        model: the float model; it stays as it is.
        sites: convolutions of it; those in subgraphs are left out.
        samples: inputs to run it on, each of the same weight.

    Returns:
        f64[C] by the name of the site's data value.
    """
    ranks = {
        str(site.data.name): 2 + len(site.conv.kernel)
        for site in sites
        if site.conv is not None and site.node.graph is model.graph
    }
    if not ranks or not samples:
        return {}
    probe = model.clone()
    values = {value.name: value for value in probe.graph.inputs}
    values |= {value.name: value for node in probe.graph for value in node.outputs}
    outputs = []
    for index, (name, rank) in enumerate(ranks.items()):
        axes = ir.tensor(np.array([0, *range(2, rank)], np.int64), name=f"bitfold.axes.{index}")
        over = ir.Value(name=axes.name, const_value=axes)
        probe.graph.register_initializer(over)
        node = ir.node("ReduceMean", [values[name], over], {"keepdims": 0})
        node.outputs[0].name = f"bitfold.mean.{index}"
        node.outputs[0].dtype = ir.DataType.FLOAT
        probe.graph.append(node)
        outputs.append(node.outputs[0])
    probe.graph.outputs.extend(outputs)
    names = [str(value.name) for value in outputs]
    session = open_session(probe, outputs=names, optimize=False)
    totals = {name: np.zeros(1) for name in ranks}
    for feeds in samples:
        found = session.run(feeds)
        for name, output in zip(ranks, names, strict=True):
            totals[name] = totals[name] + found[output].astype(np.float64)
    return {name: total / len(samples) for name, total in totals.items()}
