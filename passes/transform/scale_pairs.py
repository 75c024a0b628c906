"""``scale-pairs``: scale keys down and queries up, so that keys are easier to keep in few bits."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.activations import channel_statistics
from bitfold.passes.analysis.sites import input_at
from bitfold.passes.analysis.spaces.find_spaces import find_spaces
from bitfold.passes.analysis.spaces.space import Space
from bitfold.passes.analysis.spaces.symmetry import SCALE
from bitfold.passes.analysis.spaces.trace import Trace
from bitfold.passes.analysis.spaces.trace_model import trace_model
from bitfold.passes.core.base import Pass, Promise
from bitfold.passes.core.context import Context
from bitfold.passes.transform.change import Scale, shared_elsewhere
from bitfold.passes.transform.layer_error import decibels, worth
from bitfold.passes.transform.scaling import ROWS, balanced, rescale
from bitfold.runtime.errors import RecipeError
from bitfold.runtime.reference.lowbit_matmul import quantize_activations

ALPHAS = (0.25, 0.5, 0.75, 1.0)
"""Strengths that the search tries."""


@dataclass(frozen=True)
class Scores:
    """An attention's queries and keys on some rows, and where they hold a space.

    Attributes:
        query: float32 [R, heads, D].
        key: float32 [R, K/V heads, D].
        block: of each channel of the keys, the block of the space, [K/V heads, D]; -1 outside.
        place: likewise, the channel.
        inverse: likewise, whether it changes inversely.
    """

    query: np.ndarray
    key: np.ndarray
    block: np.ndarray
    place: np.ndarray
    inverse: np.ndarray

    def reach(self, space: Space) -> np.ndarray:
        """The longest that the part of a key in each channel was, f64[blocks, size].

        Of a pair that rotary positions turn, that is the length of the pair, which they keep.
        """
        found = np.zeros((space.blocks, space.size))
        for head in range(self.key.shape[1]):
            inside = np.flatnonzero(self.block[head] >= 0)
            squares = np.zeros((space.blocks, space.size, len(self.key)))
            keys = self.key[:, head, inside].astype(np.float64)
            np.add.at(squares, (self.block[head, inside], self.place[head, inside]), keys.T**2)
            found = np.maximum(found, np.sqrt(squares.max(axis=-1)))
        return found

    def error(self, factors: np.ndarray, bits: int) -> float:
        """Noise over signal of the scores with rounded keys, the space times ``factors``.

        What a query's scores have in common does not matter to the softmax, and is left out.
        """
        at = np.where(self.block >= 0, factors[self.block, self.place], 1.0)
        at = np.where(self.inverse, 1 / at, at)
        noise = signal = 0.0
        times = self.query.shape[1] // self.key.shape[1]
        for head, scale in enumerate(at):
            key = self.key[:, head]
            scaled = (key * scale).astype(np.float32)
            codes, steps = quantize_activations(scaled, scaled.shape[1], bits)
            lost = (codes * steps).astype(np.float64) / scale - key
            for query in self.query[:, head * times : (head + 1) * times].swapaxes(0, 1):
                noise += float(np.square(_apart(query @ lost.T)).sum())
                signal += float(np.square(_apart(query.astype(np.float64) @ key.T)).sum())
        return noise / signal if signal else 0.0


def _apart(scores: np.ndarray) -> np.ndarray:
    """Scores [queries, keys] less what a query's have in common."""
    found: np.ndarray = scores - scores.mean(axis=1, keepdims=True)
    return found


@dataclass(frozen=True)
class ScalePairs(Pass):
    """Divide each channel of the keys by how far it reaches, and multiply the queries' by it.

    Scores stay the same, and a key's channels become alike, so that few bits keep them better in a
    quantized cache.  Where rotary positions turn pairs of channels, both of a pair get one factor,
    the length of the longest pair: scaling then goes through the rotation, back into the
    projections' weights.  FireQ, Baek et al., arXiv 2505.20839, RoPE-preserving normalization; its
    second scaling, behind the rotation, has no place in the weights and is left out.

    1. What counts is the error of the scores when each key is rounded to ``bits`` bits, one scale
       for each token and head, less what a query's scores have in common, on rows of the sample
       inputs.  Where that would not fall, the heads stay, with both figures.
    2. Heads that share keys share factors.
    3. Caches of keys change coordinates from run to run alike; the metadata of the model's inputs
       and outputs say so.

    Attributes:
        bits: what keys will be rounded to: 2 to 8.
        alpha: 0 to leave the channels as they are, 1 to make their ranges equal; ``search`` for
            what loses least.
        spaces: globs of spaces (by their first writer's name) to scale.
        caches: scale what caches hold; without it, their spaces stay.
        copy_limit: elements; a weight that others read in other coordinates is copied up to here.
    """

    name: ClassVar[str] = "scale-pairs"
    promise: ClassVar[Promise] = Promise.EXACT

    bits: int = 4
    alpha: float | Literal["search"] = "search"
    spaces: tuple[str, ...] = ("*",)
    caches: bool = True
    copy_limit: int = 4096

    def __post_init__(self) -> None:
        if self.bits not in (2, 3, 4, 8):
            raise RecipeError(f"expected 2, 3, 4 or 8 bits, found {self.bits}")
        if self.alpha != "search" and not 0 <= self.alpha <= 1:
            raise RecipeError(f"expected an alpha from 0 to 1, found {self.alpha}")

    def run(self, model: ir.Model, context: Context) -> bool:
        trace = trace_model(model)
        found: list[tuple[Space, ir.Node]] = []
        for space in find_spaces(trace, SCALE):
            node = product_of(space, trace, model)
            if node is not None:
                reason = self._refusal(space)
                if reason:
                    context.entry.skipped(space.name, reason)
                else:
                    found.append((space, node))
        samples = context.statistics() if found else ()
        if found and not samples:
            context.entry.note("no sample inputs to see what the keys hold: nothing is scaled")
            return False
        axes = {}
        for _, node in found:
            for index in (0, 1):
                value = node.inputs[index]
                assert value is not None, "products have both operands"
                axes[str(value.name)] = channel_axes(node, index)
        seen = channel_statistics(model, axes, samples, ROWS)
        changed = False
        for space, node in found:
            parts = [seen[str(value.name)] for value in node.inputs[:2] if value is not None]
            if not all(part.finite for part in parts):
                context.entry.skipped(space.name, "it is not finite on the sample inputs")
                continue
            scores = scores_of(space, trace, node, parts[0].rows, parts[1].rows)
            changed |= self._scale(space, scores, context)
        return changed

    def _refusal(self, space: Space) -> str:
        if not any(fnmatchcase(space.name, glob) for glob in self.spaces):
            return "not among the recipe's spaces"
        if space.states and not self.caches:
            return f"{space.states[0].state.given.name} holds it from run to run"
        nothing = Scale(np.ones((space.blocks, space.size)))
        return space.why_not(SCALE) or shared_elsewhere(space, nothing, self.copy_limit)

    def _scale(self, space: Space, scores: Scores, context: Context) -> bool:
        before = scores.error(np.ones((space.blocks, space.size)), self.bits)
        inverse = bool(scores.inverse[scores.block >= 0].any())
        lengths = scores.reach(space)
        tried = []
        for alpha in ALPHAS if self.alpha == "search" else (self.alpha,):
            factors = balanced(np.where(lengths > 0, lengths, 1.0) ** alpha, lengths > 0)
            tried.append((alpha, factors if inverse else 1 / factors))
        errors = [scores.error(factors, self.bits) for _, factors in tried]
        best = int(np.argmin(errors))
        alpha, factors = tried[best]
        if not worth(before, errors[best]):
            figures = f"{decibels(before)} would become {decibels(errors[best])}"
            context.entry.skipped(space.name, "its scores would gain nothing", figures)
            return False
        rescale(space, factors, context)
        context.entry.changed(
            space.name,
            f"{space.size} channels in {space.blocks} blocks by length^{alpha:g}: SQNR of scores "
            f"of {self.bits}-bit keys {decibels(before)} → {decibels(errors[best])}",
        )
        return True


def product_of(space: Space, trace: Trace, model: ir.Model) -> ir.Node | None:
    """The first node that multiplies queries by keys in a space."""
    for node in model.graph:
        if node.op_type not in ("Attention", "MatMul") or node.domain != "":
            continue
        query, key = (trace.ids(input_at(node, index)) for index in (0, 1))
        if query is None or key is None:
            continue
        inside = [bool((space.coordinates.of(ids)[0] >= 0).any()) for ids in (query, key)]
        if all(inside) and (node.op_type == "Attention" or key.shape[-2] > 1):
            return node
    return None


def channel_axes(node: ir.Node, index: int) -> tuple[int, ...]:
    """Axes of a query or key that hold heads and channels, rising."""
    value = node.inputs[index]
    assert value is not None, "products have both operands"
    assert value.shape is not None, "their channels are known"
    rank = len(value.shape)
    if rank < 4:
        return (rank - 1,) if node.op_type == "Attention" or index == 0 else (rank - 2,)
    row = rank - 1 if node.op_type == "MatMul" and index == 1 else rank - 2
    return tuple(axis for axis in range(1, rank) if axis != row)


def scores_of(
    space: Space, trace: Trace, node: ir.Node, query: np.ndarray, key: np.ndarray
) -> Scores:
    """Rows of both operands of a product, [R, channels] each, by head."""
    ids = trace.ids(node.inputs[1])
    assert ids is not None, "products are found by their coordinates"
    value = node.inputs[1]
    assert value is not None, "products have both operands"
    axes = channel_axes(node, 1)
    shape = [1] * len(value.shape or ())
    for axis in axes:
        shape[axis] = int(value.shape[axis])  # type: ignore[index, arg-type]
    flat = np.broadcast_to(ids, shape).reshape(-1)
    heads = shape[axes[0]] if len(axes) > 1 else node.attributes.get_int("kv_num_heads", 1)
    width = len(flat) // heads
    block, place = space.coordinates.of(flat)
    inverse = space.coordinates.inverted(flat)
    return Scores(
        query.reshape(len(query), -1, width),
        key.reshape(len(key), heads, width),
        *(each.reshape(heads, width) for each in (block, place, inverse)),
    )
