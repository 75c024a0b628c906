"""How much each token counts in the Gram matrix of what a site reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import Site
from bitfold.passes.calibrate.append import Appender
from bitfold.passes.calibrate.attention_received import (
    AttentionReceived,
    Uses,
    attention_of_sites,
    looked_at_behind,
)
from bitfold.passes.calibrate.inverse_norm import InverseNorm, norm_behind

Tokens = Literal["even", "uses", "attention", "first", "inverse-norm"]


class TokenWeights(Protocol):
    """Weights of the rows that a site reads; equal ones have equal keys."""

    @property
    def key(self) -> str:
        """Names the weights."""

    @property
    def reads(self) -> list[str]:
        """Names of the values that they are computed from."""

    def add(self, build: Appender, values: dict[str, ir.Value]) -> ir.Value:
        """Append nodes that give them, [rows], none negative, from the values of these names."""


class KeptWeights(Protocol):
    """Weights that an earlier run, which was stopped, has computed."""

    def recall(self, key: str) -> list[np.ndarray] | None:
        """The weights of that key, f32 [rows] for each sample, or None."""

    def keep(self, key: str, weights: list[np.ndarray]) -> None:
        """Keep them for later runs."""


@dataclass(frozen=True)
class FirstHalf:
    """Count the first half of each sequence alone (RSQ: Sung et al., arXiv 2503.01820, "First-N").

    Attributes:
        data: what the site reads, [batch, sequence, K].
    """

    data: ir.Value

    @property
    def key(self) -> str:
        return f"first {self.data.name}"

    @property
    def reads(self) -> list[str]:
        return [str(self.data.name)]

    def add(self, build: Appender, values: dict[str, ir.Value]) -> ir.Value:
        data = values[str(self.data.name)]
        length = build.node("Squeeze", [build.shape(data, 1, 2)], None, ir.DataType.INT64)
        zero, one = (
            build.node("Squeeze", [build.ints(n)], None, ir.DataType.INT64) for n in (0, 1)
        )
        places = build.node("Range", [zero, length, one], None, ir.DataType.INT64)
        doubled = build.node("Add", [places, places], None, ir.DataType.INT64)
        half = build.node("Less", [doubled, length], None, ir.DataType.BOOL)
        weights = build.node("Cast", [half], {"to": ir.DataType.FLOAT})
        every = build.node("Expand", [weights, build.shape(data, 0, 2)])
        return build.node("Reshape", [every, build.ints(-1)])


def token_weights(
    model: ir.Model, sites: Sequence[Site], tokens: Tokens
) -> dict[ir.Node, TokenWeights]:
    """The weights of what each site reads, by its node; sites that are left out count all alike.

    Args:
        model: its graph is sorted.
        sites: of the main graph.
        tokens: ``attention`` by how much attention a token gets, ``uses`` by that beside its own
            use, where attention has sinks (:mod:`.attention_received`), ``first`` for the first
            half alone, ``inverse-norm`` by what the norm behind the site divides its error by
            (:mod:`.inverse_norm`), ``even`` for none.
    """
    products = [site for site in sites if site.conv is None]
    found: dict[ir.Node, TokenWeights] = {}
    if tokens == "attention":
        for node, attention in attention_of_sites(model.graph, products).items():
            found[node] = AttentionReceived(attention)
    elif tokens == "uses":
        looked_at = looked_at_behind(model.graph)
        for node, attention in attention_of_sites(model.graph, products).items():
            if node in looked_at:
                found[node] = Uses(attention)
    elif tokens == "inverse-norm":
        for site in products:
            norm = norm_behind(site)
            if norm is not None:
                found[site.node] = InverseNorm(norm)
    elif tokens == "first":
        for site in products:
            if site.data.shape is not None and len(site.data.shape) == 3:
                found[site.node] = FirstHalf(site.data)
    return found
