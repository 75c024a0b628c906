"""What a space's readers lose by quantization before and after some of its channels are split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from bitfold.passes.analysis.activations import ChannelStatistics
from bitfold.passes.analysis.sites import Site, site_of
from bitfold.passes.analysis.spaces.space import Held, Space
from bitfold.passes.quantize.conv_scheme import conv_scheme, has_one_pixel
from bitfold.passes.transform.layer_error import Product, products_of
from bitfold.passes.transform.splitting import Ranges, choose, parted, total_drops
from bitfold.runtime.formats.scheme import QuantScheme

Side = Literal["weight", "activation"]
"""Whose outliers are split: those of what reads the channels, or the channels' own."""


@dataclass(frozen=True)
class Reader:
    """A linear op that reads a space, and what it multiplies.

    Attributes:
        channels: int, of each of its input channels the space's; -1 outside.
    """

    site: Site
    channels: np.ndarray
    products: tuple[Product, ...]

    @property
    def signal(self) -> float:
        """The squared size of what it gives unquantized."""
        return sum(float(np.square(p.exact, dtype=np.float64).sum()) for p in self.products)

    def copies(self, counts: np.ndarray) -> np.ndarray:
        """Copies of each of its input channels where the space's have ``counts``."""
        return np.where(self.channels < 0, 1, counts[np.maximum(self.channels, 0)])

    def share(self, counts: np.ndarray, side: Side, recipe: QuantScheme) -> float:
        """Noise over signal with channels in ``counts`` copies."""
        noise = 0.0
        for product in self.products:
            copies = self.copies(counts)[product.places]
            scheme = scheme_with(self.site, recipe, int(copies.sum()))
            x = np.repeat(product.x / (copies if side == "activation" else 1), copies, axis=1)
            if side == "activation":
                w = np.repeat(product.w, copies, axis=1)
            else:
                w = parted(product.w, copies, scheme.weight)
            split = Product(x.astype(np.float32), w, scheme, product.places)
            noise += split.noise(np.ones(len(w.T), np.float32))
        return noise / self.signal if self.signal else 0.0

    def ranges(self, side: Side, size: int) -> list[Ranges]:
        """What shares scales, on one side."""
        found = []
        for product in self.products:
            x, w, scheme, k = product.x, product.w, product.scheme, product.x.shape[1]
            channels, signal = self.channels[product.places], self.signal
            if side == "weight":
                energy, symmetric = np.square(x).mean(0) * len(x), scheme.weight.symmetric
                group = scheme.weight.group_size(k)
                found.append(Ranges(w, group, energy, channels, signal, symmetric, False))
            elif scheme.act_bits is not None:
                energy, group = np.square(w).sum(0), scheme.act_group_size(k)
                found.append(Ranges(x, group, energy, channels, signal, True, True))
        return found


class SplitTrial:
    """The readers of a space, which splits are tried on."""

    def __init__(
        self, space: Space, seen: Mapping[str, ChannelStatistics], recipe: QuantScheme
    ) -> None:
        self.recipe = recipe
        self.size = space.size
        self.readers = [_reader(held, seen, recipe) for held in space.readers]

    def error(self, counts: np.ndarray, side: Side) -> float:
        """The mean over readers of noise over signal."""
        return float(np.mean([r.share(counts, side, self.recipe) for r in self.readers]))

    def choose(self, extra: int, side: Side) -> np.ndarray | None:
        """Copies of each channel, ``extra`` more in all; None where ``side`` is not quantized."""
        parts = [part for reader in self.readers for part in reader.ranges(side, self.size)]
        return choose(total_drops(parts), self.size, extra) if parts else None


def scheme_with(site: Site, recipe: QuantScheme, channels: int) -> QuantScheme:
    """How a site with so many input channels (of a convolution group) will be quantized."""
    if site.conv is None:
        return recipe
    conv = replace(site.conv, cg=channels)
    return conv_scheme(recipe, conv, "auto", "native", 16, has_one_pixel(site))


def _reader(held: Held, seen: Mapping[str, ChannelStatistics], recipe: QuantScheme) -> Reader:
    site = site_of(held.port.op)
    assert site is not None, "weights belong to sites"
    channels = np.where(held.block < 0, -1, held.place)
    return Reader(site, channels, tuple(products_of(site, seen[str(site.data.name)].rows, recipe)))
