"""Estimate what quantization costs the linear ops that read a space, whose channels are scaled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bitfold.passes.analysis.activations import ChannelStatistics
from bitfold.passes.analysis.sites import Site, site_of
from bitfold.passes.analysis.spaces.gather import spread
from bitfold.passes.analysis.spaces.space import Held, Space
from bitfold.passes.quantize.conv_scheme import conv_rows, conv_scheme, has_one_pixel
from bitfold.passes.quantize.rounding import round_to_nearest
from bitfold.runtime.formats.scheme import QuantScheme
from bitfold.runtime.reference.lowbit_matmul import quantize_activations

OUTPUTS = 128
"""Outputs of each linear op that are looked at: each has scales of its own, so some tell of all."""

SMALLEST_GAIN = 0.99
"""A change must leave no more than this share of the error, or else it is not worth making."""


@dataclass(frozen=True)
class Product:
    """Rows of inputs, the weight that they meet, and how both will be quantized.

    Attributes:
        x: float32 [R, K].
        w: float32 [N, K].
        scheme: of ``w`` and ``x``.
        places: the K places of the reader's input that these are.
    """

    x: np.ndarray
    w: np.ndarray
    scheme: QuantScheme
    places: slice

    @cached_property
    def exact(self) -> np.ndarray:
        """What they give unquantized, [R, N]."""
        found: np.ndarray = self.x @ self.w.T
        return found

    def noise(self, factors: np.ndarray, shifts: np.ndarray | float = 0.0) -> float:
        """Squared error of the quantized product with other inputs: ``factors * (x + shifts)``."""
        shifted = (self.x + shifts).astype(np.float32)
        x = rounded_rows((shifted * factors).astype(np.float32), self.scheme)
        w = (self.w / factors).astype(np.float32)
        ranges = "minmax" if self.scheme.weight.number.bits == 8 else "mse"
        rounded = round_to_nearest(w, self.scheme.weight, ranges).dequantize()
        exact = shifted @ self.w.T if np.any(shifts) else self.exact
        return float(np.square(x @ rounded.T - exact, dtype=np.float64).sum())


def rounded_rows(x: np.ndarray, scheme: QuantScheme) -> np.ndarray:
    """Inputs [R, K] as they come out of ``QuantizeActivation``."""
    if scheme.act_bits is None:
        return x
    size = scheme.act_group_size(x.shape[1])
    q, scales = quantize_activations(x, size, scheme.act_bits)
    rounded: np.ndarray = q * np.repeat(scales, size, 1)[:, : x.shape[1]]
    return rounded


class LayerError:
    """What quantization costs all readers of a space."""

    def __init__(
        self, space: Space, seen: Mapping[str, ChannelStatistics], recipe: QuantScheme
    ) -> None:
        self.readers: list[tuple[Held, list[Product]]] = []
        for held in space.readers:
            site = site_of(held.port.op)
            assert site is not None, "weights belong to sites"
            rows = seen[str(site.data.name)].rows
            self.readers.append((held, products_of(site, rows, recipe)))

    def of(self, factors: np.ndarray, shifts: np.ndarray | None = None) -> float:
        """The mean over readers of noise over signal, with other channels.

        Args:
            factors: what each channel is multiplied by, [blocks, size] of the space.
            shifts: what is added to it before, likewise; nothing by default.
        """
        shares = []
        for held, products in self.readers:
            each = spread(held, factors)
            more = np.zeros(len(each)) if shifts is None else spread(held, shifts, 0.0)
            shares.append(noise_share(products, each, more))
        return float(np.mean(shares))


def noise_share(products: Sequence[Product], factors: np.ndarray, shifts: np.ndarray) -> float:
    """Noise over signal of one site's output; 0 where it gives zeros.

    Args:
        products: what the site multiplies.
        factors: what each of its inputs is multiplied by, [K].
        shifts: what is added to each of them before, [K].
    """
    noise = sum(p.noise(factors[p.places], shifts[p.places]) for p in products)
    signal = sum(float(np.square(p.exact, dtype=np.float64).sum()) for p in products)
    return noise / signal if signal else 0.0


def products_of(site: Site, rows: np.ndarray, recipe: QuantScheme) -> list[Product]:
    """What a site multiplies: of a convolution, each pixel by the weights of each tap.

    A convolution's sums over taps are left out: its errors at different taps are taken to be
    independent.
    """
    weight, conv = site.weight(), site.conv
    if conv is None:
        return [Product(rows, some(weight), recipe, slice(0, weight.shape[1]))]
    single = has_one_pixel(site)
    scheme = conv_scheme(recipe, conv, "auto", "native", 16, single)
    outputs = conv.n // conv.groups
    products = []
    for group in range(conv.groups):
        places = slice(group * conv.cg, (group + 1) * conv.cg)
        mine = weight[group * outputs : (group + 1) * outputs]
        grouped = conv_rows(mine, conv) if conv.depthwise else mine.reshape(-1, conv.cg)
        products.append(Product(rows[:, places], some(grouped), scheme, places))
    return products


def some(weight: np.ndarray) -> np.ndarray:
    """Up to ``OUTPUTS`` rows of a weight, spread over all of them, as float32."""
    places = np.unique(np.linspace(0, len(weight) - 1, OUTPUTS).astype(int))
    return np.ascontiguousarray(weight[places], np.float32)


def decibels(share: float) -> str:
    """Noise over signal as people write it: ``31.2 dB``."""
    return f"{-10 * np.log10(share):.1f} dB" if share > 0 else "no error"


def worth(before: float, after: float) -> bool:
    """Whether a change pays."""
    return after < SMALLEST_GAIN * before
