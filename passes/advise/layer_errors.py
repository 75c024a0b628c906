"""How much quantizing each linear op moves its output: its own error, on real inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.activations import channel_statistics
from bitfold.passes.analysis.sites import Site
from bitfold.passes.core.context import Feeds
from bitfold.passes.quantize.rounding import round_to_nearest
from bitfold.passes.transform.layer_error import noise_share, products_of, some
from bitfold.runtime.formats.scheme import QuantScheme

VALUES_AT_ONCE = 32
"""Activations that one run keeps rows of: the model is run again for the next ones."""


def site_errors(
    model: ir.Model,
    sites: Sequence[Site],
    scheme_of: Callable[[Site], QuantScheme],
    samples: Sequence[Feeds],
    rows: int,
) -> dict[str, float]:
    """Noise over signal of each site's output by name; left out where its input is not finite.

    Args:
        model: the float model.
        sites: sites of its main graph.
        scheme_of: how a site is quantized.
        samples: inputs to run the model on, in the original coordinates.
        rows: rows of each activation that are looked at.
    """
    errors: dict[str, float] = {}
    by_value: dict[str, list[Site]] = {}
    for site in sites:
        if site.kind == "gather":
            errors[site.name] = table_error(some(site.weight()), scheme_of(site))
        else:
            by_value.setdefault(str(site.data.name), []).append(site)
    names = list(by_value)
    for start in range(0, len(names), VALUES_AT_ONCE):
        part = names[start : start + VALUES_AT_ONCE]
        axes = {name: (-1,) if by_value[name][0].conv is None else (1,) for name in part}
        for name, seen in channel_statistics(model, axes, samples, rows).items():
            if seen.finite:
                for site in by_value[name]:
                    errors[site.name] = output_error(site, seen.rows, scheme_of(site))
    return errors


def output_error(site: Site, x: np.ndarray, scheme: QuantScheme) -> float:
    """``|Q(x) Q(W)^T - x W^T|^2 / |x W^T|^2``; 0 where the layer gives zeros.

    Args:
        x: float32 [R, K], rows of its input; of a convolution, pixels.
        scheme: how weights and inputs are rounded (to nearest).
    """
    inputs = x.shape[1]
    return noise_share(products_of(site, x, scheme), np.ones(inputs), np.zeros(inputs))


def table_error(table: np.ndarray, scheme: QuantScheme) -> float:
    """``|Q(T) - T|^2 / |T|^2`` of an embedding table."""
    signal = float(np.square(table, dtype=np.float64).sum())
    error = round_to_nearest(table, scheme.weight).dequantize() - table
    return float(np.square(error, dtype=np.float64).sum()) / signal if signal else 0.0
