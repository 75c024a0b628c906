"""How much quantizing a linear op moves its output: its own error, on real inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.conv_shape import ConvShape
from bitfold.passes.analysis.sites import Site
from bitfold.passes.core.context import Feeds
from bitfold.passes.quantize.rounding import round_to_nearest
from bitfold.runtime.execution import open_session
from bitfold.runtime.formats.scheme import QuantScheme
from bitfold.runtime.reference.lowbit_matmul import quantize_activations

VALUES_AT_ONCE = 32
"""Activations that one run keeps: the model is run again for the next ones."""


def layer_error(x: np.ndarray, weight: np.ndarray, scheme: QuantScheme) -> float:
    """``|Q(x) Q(W)^T - x W^T|^2 / |x W^T|^2``; 0 where the layer gives zeros.

    Args:
        x: float32 [M, K], inputs.
        weight: float32 [N, K].
        scheme: how weights and inputs are rounded (to nearest).
    """
    rounded = round_to_nearest(weight, scheme.weight).dequantize()
    expected = x @ weight.T
    energy = float(np.square(expected, dtype=np.float64).sum())
    error = round_rows(x, scheme) @ rounded.T - expected
    return float(np.square(error, dtype=np.float64).sum()) / energy if energy else 0.0


def table_error(table: np.ndarray, scheme: QuantScheme) -> float:
    """``|Q(T) - T|^2 / |T|^2`` of an embedding table."""
    energy = float(np.square(table, dtype=np.float64).sum())
    error = round_to_nearest(table, scheme.weight).dequantize() - table
    return float(np.square(error, dtype=np.float64).sum()) / energy if energy else 0.0


def round_rows(x: np.ndarray, scheme: QuantScheme) -> np.ndarray:
    """Inputs as a quantized layer sees them, float32 [M, K]."""
    if scheme.act_bits is None:
        return x
    size = scheme.act_group_size(x.shape[1])
    codes, scales = quantize_activations(x, size, scheme.act_bits)
    rounded: np.ndarray = codes * np.repeat(scales, size, axis=1)[:, : x.shape[1]]
    return rounded


def site_errors(
    model: ir.Model,
    sites: Sequence[Site],
    scheme_of: Callable[[Site], QuantScheme],
    samples: Sequence[Feeds],
    rows: int,
    rng: np.random.Generator,
) -> dict[str, float]:
    """The error of each site by name; it is left out where its input is not finite.

    Grouped convolutions, whose inputs no single matrix multiplies, are left out too.

    Args:
        model: the float model.
        sites: sites of its main graph.
        scheme_of: how a site is quantized.
        samples: inputs to run the model on.
        rows: rows of each activation that are looked at, and four times as many of each weight,
            drawn by ``rng``.
    """
    errors: dict[str, float] = {}
    by_value: dict[str, list[Site]] = {}
    for site in sites:
        if site.kind == "gather":
            errors[site.name] = table_error(_some_outputs(site, 4 * rows, rng), scheme_of(site))
        elif site.conv is None or site.conv.groups == 1:
            by_value.setdefault(str(site.data.name), []).append(site)
    names = list(by_value)
    for start in range(0, len(names), VALUES_AT_ONCE):
        part = [site for name in names[start : start + VALUES_AT_ONCE] for site in by_value[name]]
        for site, x in _inputs_of(model, part, samples, rows, rng):
            if np.isfinite(x).all():
                weight = _some_outputs(site, 4 * rows, rng)
                errors[site.name] = layer_error(x, weight, scheme_of(site))
    return errors


def _some_outputs(site: Site, count: int, rng: np.random.Generator) -> np.ndarray:
    """Up to ``count`` rows of a site's weight, float32."""
    weight = site.weight()
    chosen = np.sort(rng.permutation(len(weight))[:count])
    return np.asarray(weight[chosen], np.float32)


def _inputs_of(
    model: ir.Model,
    sites: Sequence[Site],
    samples: Sequence[Feeds],
    rows: int,
    rng: np.random.Generator,
) -> Iterator[tuple[Site, np.ndarray]]:
    """Each site with rows [M, K] of its input, up to ``rows``, as many from every sample."""
    names = list(dict.fromkeys(str(site.data.name) for site in sites))
    session = open_session(model, outputs=names, optimize=False)
    share = -(-rows // len(samples))
    kept: dict[str, list[np.ndarray]] = {site.name: [] for site in sites}
    for feeds in samples:
        found = session.run(feeds)
        for site in sites:
            array = found[str(site.data.name)]
            kept[site.name].append(input_rows(array, site.conv, share, rng))
    for site in sites:
        yield site, np.concatenate(kept[site.name]).astype(np.float32)


def input_rows(
    array: np.ndarray, conv: ConvShape | None, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Up to ``count`` rows that a weight [N, K] multiplies: of [..., K], or windows of pixels.

    Args:
        array: the input, of a convolution [n, C, *spatial].
        conv: the convolution; its windows are taken at any place, paddings and strides aside.
    """
    if conv is None:
        flat = array.reshape(-1, array.shape[-1])
        return flat[np.sort(rng.permutation(len(flat))[:count])]
    rank = len(conv.kernel)
    if any(have < want for have, want in zip(array.shape[2:], conv.kernel, strict=True)):
        return np.empty((0, conv.k), array.dtype)
    seen = np.lib.stride_tricks.sliding_window_view(array, conv.kernel, tuple(range(2, 2 + rank)))
    seen = np.moveaxis(seen, 1, -1)  # [n, *places, *kernel, C]
    places = seen.shape[: 1 + rank]
    chosen = np.sort(rng.permutation(int(np.prod(places)))[:count])
    return seen[np.unravel_index(chosen, places)].reshape(len(chosen), conv.k)
