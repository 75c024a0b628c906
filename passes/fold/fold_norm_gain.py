"""``fold-norm-gain``: move a norm's gain and bias into the linear ops that read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from bitfold.passes.analysis.site_weights import other_reader, set_site_weight
from bitfold.passes.analysis.sites import Site, site_of
from bitfold.passes.core.base import Pass, Promise
from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import add_bias, constant, shared_initializer, vector
from bitfold.passes.core.words import counted
from bitfold.passes.fold.weights import scale_inputs, shift_of_inputs

NORMS = ("RMSNormalization", "LayerNormalization")


@dataclass(frozen=True)
class FoldNormGain(Pass):
    """Fold the gain (and a LayerNorm's bias) into every reader of the norm.

    ``W (gain * x + bias) = (W * gain) x + W bias``.  The gain becomes a vector of ones, shared by
    all norms, and the bias goes; a norm without gain commutes with rotations (Ashkboos et al.,
    2024).  A gain is left alone, with the reason, when

    1. something other than a MatMul or Gemm with a float constant weight reads the norm,
    2. a reader's weight is large and read elsewhere too (a tied head's is the embedding):
       folding would copy it,
    3. the norm is not over the last axis, or its gain is no constant vector.

    Attributes:
        copy_limit: elements; a weight that others read too is copied up to this size.
    """

    name: ClassVar[str] = "fold-norm-gain"
    promise: ClassVar[Promise] = Promise.EXACT

    copy_limit: int = 4096

    def run(self, model: ir.Model, context: Context) -> bool:
        changed = False
        for node in list(model.graph):
            if node.op_type not in NORMS or node.domain != "":
                continue
            site = node.name or str(node.outputs[0].name)
            found = self._readers(node)
            if isinstance(found, str):
                context.entry.skipped(site, found)
                continue
            _fold(model.graph, node, found, context)
            context.entry.changed(site, f"gain folded into {counted(len(found), 'reader')}")
            changed = True
        if changed:
            common.RemoveUnusedNodesPass()(model)
        return changed

    def _readers(self, norm: ir.Node) -> list[Site] | str:
        """The sites that read the norm, or why its gain cannot be folded."""
        output, gain = norm.outputs[0], norm.inputs[1]
        values = constant(gain)
        if values is None or values.ndim != 1:
            return "its gain is not a constant vector"
        rank = len(output.shape) if output.shape is not None else None
        if norm.attributes.get_int("axis", -1) not in (-1, None if rank is None else rank - 1):
            return "it normalizes more than the last axis"
        bias = norm.inputs[2] if len(norm.inputs) > 2 else None
        if bias is not None and vector(bias, len(values)) is None:
            return "its bias is not a constant vector"
        if np.all(values == 1) and bias is None:
            return "it has no gain to fold"
        if output.is_graph_output():
            return "its output is an output of the model"
        sites: list[Site] = []
        for user, index in output.uses():
            site = site_of(user)
            if site is None or index != 0 or site.kind not in ("matmul", "gemm"):
                return f"{user.op_type} {user.name} reads it, which is no linear op"
            if site.quantized is not None or site.source.dtype != gain.dtype:  # type: ignore[union-attr]
                return f"the weight of {site.name} is {site.source.dtype}, unlike the gain"
            if site.shape[1] != len(values):
                return f"{site.name} reads {site.shape[1]} channels, the gain has {len(values)}"
            reason = self._shared(site)
            if reason:
                return reason
            sites.append(site)
        return sites or "nothing reads it"

    def _shared(self, site: Site) -> str:
        other = other_reader(site)
        size = int(np.prod(site.shape))
        if other is not None and size > self.copy_limit:
            return (
                f"{site.name} shares its weight {site.source.name} with {other.op_type} "
                f"{other.name}: folding would copy {size} elements"
            )
        return ""


def _fold(graph: ir.Graph, norm: ir.Node, sites: list[Site], context: Context) -> None:
    gain = constant(norm.inputs[1])
    assert gain is not None
    bias = constant(norm.inputs[2]) if len(norm.inputs) > 2 else None
    for site in sites:
        weight = site.weight()
        if bias is not None and np.any(bias):
            add_bias(site.node, shift_of_inputs(weight, bias), context)
        set_site_weight(site, scale_inputs(weight, gain), context)
    ones = np.ones_like(gain)
    name = f"bitfold.ones.{len(gain)}.{gain.dtype.name}"
    norm.replace_input_with(1, shared_initializer(graph, context, ones, name))
    if len(norm.inputs) > 2:
        norm.resize_inputs(2)
