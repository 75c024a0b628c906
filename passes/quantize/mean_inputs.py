"""What sites read in the mean: what an error of their weights adds to their outputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.activations import channel_statistics
from bitfold.passes.analysis.sites import Site
from bitfold.passes.core.context import Context


def mean_inputs(model: ir.Model, sites: Sequence[Site], context: Context) -> dict[str, np.ndarray]:
    """The mean of each channel that sites read, f64[channels], by the name of what they read.

    Look-ups, sites in subgraphs, and inputs of unknown rank are left out; so are means that are not
    finite.  None without samples to run; the report says so.
    """
    axes: dict[str, tuple[int, ...]] = {}
    for site in sites:
        if site.kind == "gather" or site.node.graph is not model.graph:
            continue
        shape = site.data.shape
        if site.conv is not None:
            axes[str(site.data.name)] = (1,)
        elif shape is not None:
            axes[str(site.data.name)] = (len(shape) - 1,)
    if not axes:
        return {}
    samples = context.statistics()
    if not samples:
        context.entry.note("no sample inputs: biases are not corrected for rounded weights")
    seen = channel_statistics(model, dict(sorted(axes.items())), samples)
    means = {name: found.mean for name, found in seen.items()}
    finite = {name: mean for name, mean in means.items() if np.isfinite(mean).all()}
    if len(finite) < len(means):
        context.entry.note(
            f"{len(means) - len(finite)} of {len(means)} inputs of weights are not finite on the "
            "sample inputs: the biases there are not corrected for rounded weights"
        )
    return finite
