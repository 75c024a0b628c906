"""How much quantizing each linear op moves its output: its own error, on real inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.activations import channel_statistics
from bitfold.passes.analysis.sites import Site
from bitfold.passes.core.context import Feeds
from bitfold.passes.quantize.rounding import round_to_nearest
from bitfold.passes.transform.layer_error import noise_share, products_of, some
from bitfold.runtime.formats.scheme import QuantScheme

NUMBERS_AT_ONCE = 1 << 26
"""Numbers in the rows of activations that one run keeps: it is run again for the next ones."""


def site_errors(
    model: ir.Model,
    sites: Sequence[Site],
    scheme_of: Callable[[Site], QuantScheme],
    samples: Sequence[Feeds],
    rows: int,
) -> dict[str, float]:
    """Noise over signal of each site's output by name; left out where its input is not finite.

    So are depthwise convolutions, whose sums span no channels and whose weights get 8 bits.

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
        elif site.conv is None or not site.conv.depthwise:
            by_value.setdefault(str(site.data.name), []).append(site)
    for part in _parts(by_value, rows):
        axes = {name: (-1,) if by_value[name][0].conv is None else (1,) for name in part}
        for name, seen in channel_statistics(model, axes, samples, rows).items():
            if seen.finite:
                for site in by_value[name]:
                    errors[site.name] = output_error(site, seen.rows, scheme_of(site))
    return errors


def _parts(by_value: Mapping[str, Sequence[Site]], rows: int) -> Iterator[list[str]]:
    """Names of values, in parts whose rows fit in memory together."""
    part: list[str] = []
    left = NUMBERS_AT_ONCE
    for name, sites in by_value.items():
        numbers = rows * sites[0].shape[1]
        if part and numbers > left:
            yield part
            part, left = [], NUMBERS_AT_ONCE
        part.append(name)
        left -= numbers
    if part:
        yield part


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
