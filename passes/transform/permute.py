"""``permute``: bring channels into an order in which those that share a scale are alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.activations import ChannelStatistics
from bitfold.passes.analysis.sites import site_of
from bitfold.passes.analysis.spaces.find_spaces import find_spaces
from bitfold.passes.analysis.spaces.gather import Part, average, reach
from bitfold.passes.analysis.spaces.space import Held, Space
from bitfold.passes.analysis.spaces.symmetry import PERMUTE
from bitfold.passes.analysis.spaces.trace_model import trace_model
from bitfold.passes.core.base import Promise
from bitfold.passes.core.context import Context
from bitfold.passes.core.own_coordinates import add_rotation
from bitfold.passes.core.words import counted
from bitfold.passes.transform import change
from bitfold.passes.transform.at_scheme import SchemePass
from bitfold.passes.transform.change import change_space, shared_elsewhere
from bitfold.passes.transform.layer_error import Product, decibels, products_of, worth
from bitfold.passes.transform.scaling import input_of, statistics_of
from bitfold.runtime.formats.scheme import QuantScheme

MOST_LOST = 1.1
"""What the error of a single reader may be multiplied by."""


@dataclass(frozen=True)
class Permute(SchemePass):
    """Order the channels of spaces so that groups, which share a scale, are homogeneous.

    An outlier widens the range of the group that it is in: outliers that share groups leave the
    others alone.  It costs nothing, for weights and activations alike.  DGQ (Ryu et al., arXiv
    2501.04304) gives outlier channels groups of their own, and AdaDim (Heo et al., arXiv
    2309.15531) keeps them apart by grouping along them; an order does it for any kernel.

    1. Orders that are tried: by what channels reach on the sample inputs, by what the weights that
       read them reach, and by the first in bands and the second within each.  Each block of a
       space, a head say, is ordered by itself.
    2. A space is reordered only where that lowers the estimated error of what reads it at the
       scheme that is asked for, and of none much worse: in a decoder's residual stream an order
       that serves most layers may double the error of the head.  Where all of a row shares a
       scale, no order helps.
    3. A space that an operator keeps from it (rotary angles, say) stays, with the reason.
    4. Caches change coordinates from run to run alike; the metadata of the model's inputs and
       outputs say so.

    Attributes:
        spaces: globs of spaces (by their first writer's name) to reorder.
        weights, group, symmetric, acts, act_granularity: how the readers will be quantized, as in
            ``quantize``; errors are estimated for it.
        caches: reorder what caches hold; without it, their spaces stay.
        copy_limit: elements; a weight that others read in other coordinates is copied up to here.
    """

    name: ClassVar[str] = "permute"
    promise: ClassVar[Promise] = Promise.EXACT

    caches: bool = True

    def run(self, model: ir.Model, context: Context) -> bool:
        found = []
        for space in find_spaces(trace_model(model), PERMUTE):
            if space.readers:
                reason = self.refusal(space)
                if reason:
                    context.entry.skipped(space.name, reason)
                else:
                    found.append(space)
        seen = statistics_of(model, found, context)
        changed = False
        for done, space in enumerate(found if seen else []):
            context.progress(f"ordering {space.name}", done / len(found))
            changed |= self._order(space, seen, context)
        return changed

    def refusal(self, space: Space) -> str:
        """Why a space cannot be reordered; empty where it can."""
        if not self.wants(space):
            return "not among the recipe's spaces"
        reason = space.why_not(PERMUTE)
        if reason:
            return reason
        if space.states and not self.caches:
            return f"{space.states[0].state.given.name} holds it from run to run"
        nothing = change.Permute(np.tile(np.arange(space.size), (space.blocks, 1)))
        return shared_elsewhere(space, nothing, self.copy_limit)

    def _order(self, space: Space, seen: Mapping[str, ChannelStatistics], context: Context) -> bool:
        if not all(seen[input_of(held)].finite for held in space.readers):
            context.entry.skipped(space.name, "what it holds is not finite on the sample inputs")
            return False
        error = OrderError(space, seen, self.scheme())
        whole = error.of(None)
        before = typical(whole)
        tried = orders_of(space, seen)
        found = {text: error.of(orders) for text, orders in tried.items()}
        text = min(found, key=lambda each: typical(found[each]))
        after, orders = typical(found[text]), tried[text]
        lost = float((found[text] / np.maximum(whole, 1e-30)).max())
        if not worth(before, after) or lost > MOST_LOST:
            figures = f"{decibels(before)} would become {decibels(after)}"
            reason = "its readers would gain nothing"
            if lost > MOST_LOST:
                reason = "one of its readers would lose"
                figures += f", the error of one {lost:.2g} times as large"
            context.entry.skipped(space.name, reason, figures)
            return False
        change_space(space, change.Permute(orders), context)
        for held in space.states:
            matrices = held.matrices([np.eye(space.size)[:, order] for order in orders])
            for value in (held.state.given, held.state.kept):
                add_rotation(value, matrices)
        blocks = f" in {space.blocks} blocks" if space.blocks > 1 else ""
        readers = counted(len(space.readers), "reader")
        figures = f"SQNR of {readers} {decibels(before)} -> {decibels(after)}"
        context.entry.changed(space.name, f"{space.size} channels{blocks} by {text}: {figures}")
        return True


def orders_of(space: Space, seen: Mapping[str, ChannelStatistics]) -> dict[str, np.ndarray]:
    """Orders int [blocks, size] to try, by what they sort by."""
    inputs = _likeness(space, [(h, seen[input_of(h)].reach) for h in space.readers])
    weights = _likeness(space, [(h, reach(h)) for h in space.readers])
    return {
        "what they reach": np.argsort(inputs, kind="stable"),
        "what their weights reach": np.argsort(weights, kind="stable"),
        "both": np.stack([banded(a, w) for a, w in zip(inputs, weights, strict=True)]),
    }


def banded(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The order of channels in about sqrt(n / 16) bands of ``first``, each by ``second``.

    Every other band falls, so that neighbours are alike where bands meet.
    """
    order = np.argsort(first, kind="stable")
    bands = np.array_split(order, max(1, round((len(order) / 16) ** 0.5)))
    sorted_ = [band[np.argsort(second[band], kind="stable")] for band in bands]
    return np.concatenate([b[:: 1 if i % 2 == 0 else -1] for i, b in enumerate(sorted_)])


def _likeness(space: Space, parts: list[Part]) -> np.ndarray:
    """Mean over readers of numbers of channels over their mean: all readers weigh alike."""
    even = [(held, values / max(1e-30, float(values.mean()))) for held, values in parts]
    return average(space, even)


def typical(shares: np.ndarray) -> float:
    """The geometric mean of errors: readers weigh alike, however large their errors are."""
    return float(np.exp(np.log(np.maximum(shares, 1e-30)).mean()))


class OrderError:
    """What quantization costs the readers of a space in one order or another."""

    def __init__(
        self, space: Space, seen: Mapping[str, ChannelStatistics], recipe: QuantScheme
    ) -> None:
        self.space = space
        self.readers: list[tuple[Held, list[Product]]] = []
        for held in space.readers:
            site = site_of(held.port.op)
            assert site is not None, "weights belong to sites"
            products = products_of(site, seen[str(site.data.name)].rows, recipe)
            self.readers.append((held, products))

    def of(self, orders: np.ndarray | None) -> np.ndarray:
        """Of each reader, noise over signal; None for the order that there is."""
        shares = []
        for held, products in self.readers:
            places = np.arange(held.place.size) if orders is None else self._places(held, orders)
            noise = signal = 0.0
            for product in products:
                here = places[product.places] - product.places.start
                x, w = product.x[:, here], product.w[:, here]
                ordered = Product(x, w, product.scheme, product.places)
                noise += ordered.noise(np.ones(len(here), np.float32))
                signal += float(np.square(product.exact, dtype=np.float64).sum())
            shares.append(noise / signal if signal else 0.0)
        return np.array(shares)

    def _places(self, held: Held, orders: np.ndarray) -> np.ndarray:
        """Of each input of a reader, which one comes there."""
        places = np.arange(held.place.size)
        for block in range(self.space.blocks):
            for view in held.views(block, self.space.size):
                places[view] = view[orders[block]]
        return places
