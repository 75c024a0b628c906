"""Gather what a space's rotations are learned on: rows of inputs, and rows of weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import Site, site_of
from bitfold.passes.analysis.spaces.space import Held, Space
from bitfold.passes.core.context import Feeds
from bitfold.passes.transform.learn.terms import AcrossRows, AlongRows, Term
from bitfold.passes.transform.learn.turn import Places
from bitfold.runtime.execution import open_session
from bitfold.runtime.formats.scheme import QuantScheme

AT_ONCE = 64
"""Values that one run gives: the model is run again for the next ones."""

FEW_BITS = 4
"""Weights of more bits lose nothing to speak of."""


@dataclass(frozen=True)
class Inputs:
    """Rows float32 [M, K] of values, by name; values that are not finite are left out."""

    rows: dict[str, np.ndarray]

    @classmethod
    def of(
        cls,
        model: ir.Model,
        names: Sequence[str],
        feeds: Sequence[Feeds],
        count: int,
        rng: np.random.Generator,
    ) -> Inputs:
        """About ``count`` rows of each value, as many from each run."""
        share = -(-count // len(feeds))
        rows: dict[str, np.ndarray] = {}
        for start in range(0, len(names), AT_ONCE):
            some = list(names[start : start + AT_ONCE])
            session = open_session(model, outputs=some, optimize=False)
            kept: dict[str, list[np.ndarray]] = {name: [] for name in some}
            for each in feeds:
                for name, array in session.run(each).items():
                    flat = array.reshape(-1, array.shape[-1])
                    picked = np.sort(rng.permutation(len(flat))[:share])
                    kept[name].append(flat[picked].astype(np.float32))
            rows |= {name: np.concatenate(parts) for name, parts in kept.items()}
        return cls({name: array for name, array in rows.items() if np.isfinite(array).all()})


@dataclass(frozen=True)
class _Reader:
    """A linear op that reads a space: its inputs, some of its weight's rows, how many it has."""

    places: Places
    x: np.ndarray
    w: np.ndarray
    outputs: int
    energy: float


def input_names(spaces: Iterable[Space], scheme: QuantScheme) -> list[str]:
    """Names of what the linear ops read that read the spaces, or write them with few bits."""
    weights = scheme.weight.number.bits <= FEW_BITS
    held = [h for space in spaces for h in (*space.readers, *(space.writers if weights else ()))]
    sites = [_site(each) for each in held]
    return list(dict.fromkeys(str(site.data.name) for site in sites if site is not None))


def terms_of(
    space: Space, inputs: Inputs, scheme: QuantScheme, rng: np.random.Generator
) -> list[Term]:
    """What rounding costs the linear ops of a space.

    Args:
        scheme: how their inputs and weights are rounded.
        rng: draws rows of weights, where they have more than there are rows of inputs.
    """
    weights = scheme.weight.number.bits <= FEW_BITS
    steps = max(1.0, (2**scheme.weight.number.bits - 1) / 2)
    even = scheme.weight.symmetric
    by_input: dict[tuple[object, ...], list[_Reader]] = {}
    for held in space.readers:
        site = _site(held)
        x = None if site is None else inputs.rows.get(str(site.data.name))
        if site is None or x is None or x.shape[1] != held.place.size:
            continue
        w, n = _rows(site.weight(), len(x), rng), site.shape[0]
        places = Places.of(held, space.blocks, space.size)
        reader = _Reader(places, x, w, n, variation(x, w) * n / len(w))
        by_input.setdefault((site.data.name, *places.key()), []).append(reader)
    terms: list[Term] = []
    for readers in by_input.values():
        places, x = readers[0].places, readers[0].x
        energy = sum(reader.energy for reader in readers)
        if energy == 0:
            continue
        if scheme.act_bits is not None:
            levels = max(1.0, 2.0 ** (scheme.act_bits - 1) - 1)
            parts = [r.w * np.float32(np.sqrt(r.outputs / len(r.w) / energy)) for r in readers]
            group = scheme.act_group_size(places.width)
            terms.append(AlongRows(x, np.concatenate(parts), places, group, levels, 1.0))
        for reader in readers if weights else ():
            others = x / np.float32(np.sqrt(len(x)))
            group, scale = scheme.weight.group_size(places.width), reader.outputs / energy
            terms.append(AlongRows(reader.w, others, places, group, steps, scale, even))
    if weights:
        terms += _written(space, inputs, scheme, steps)
    return terms


def _written(space: Space, inputs: Inputs, scheme: QuantScheme, steps: float) -> list[Term]:
    terms: list[Term] = []
    for held in space.writers:
        site = _site(held)
        x = None if site is None else inputs.rows.get(str(site.data.name))
        if site is None or x is None:
            continue
        w = site.weight().astype(np.float32)
        energy = variation(x, w)
        if energy:
            places = Places.of(held, space.blocks, space.size)
            moments = np.square(x).mean(0)
            group = scheme.weight.group_size(w.shape[1])
            even = scheme.weight.symmetric
            rows = np.ascontiguousarray(w.T)
            terms.append(AcrossRows(rows, moments, places, group, steps, 1 / energy, even))
    return terms


def variation(x: np.ndarray, weight: np.ndarray) -> float:
    """The variance over rows of ``x W^T``, summed over its columns.

    What all rows have in common is no measure of what may be lost: the head's logits, say, are
    all far below zero, which makes no token likelier than another.
    """
    return float(np.var(x @ weight.T, axis=0, dtype=np.float64).sum())


def _site(held: Held) -> Site | None:
    """The matrix product that a parameter belongs to; None where it is anything else."""
    site = site_of(held.port.op)
    return site if site is not None and site.kind in ("matmul", "gemm") else None


def _rows(weight: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Up to ``count`` rows of a weight, float32."""
    chosen = np.sort(rng.permutation(len(weight))[:count])
    return np.asarray(weight[chosen], np.float32)
