"""Weigh a token's error by what the norm behind it divides by."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from bitfold.passes.analysis.row_origin import same_shape
from bitfold.passes.analysis.sites import Site, is_constant
from bitfold.passes.calibrate.append import Appender

NORMS = ("RMSNormalization", "LayerNormalization")


@dataclass(frozen=True)
class InverseNorm:
    """Weights ``1 / (mean(x^2) + epsilon)`` of the tokens x that a norm reads.

    What a site adds to a residual stream is seen through the norms that read the stream, each of
    which divides a token by its root mean square (a LayerNorm, by its standard deviation): an error
    in a token of large norm, as attention sinks are, is divided by much, and costs little.  The
    nearest norm stands for all.

    Attributes:
        norm: an RMSNormalization or LayerNormalization over the last axis.
    """

    norm: ir.Node

    @property
    def key(self) -> str:
        return f"inverse-norm {self.reads[0]}"

    @property
    def reads(self) -> list[str]:
        stream = self.norm.inputs[0]
        assert stream is not None, "a norm has its input"
        return [str(stream.name)]

    def add(self, build: Appender, values: dict[str, ir.Value]) -> ir.Value:
        x = values[self.reads[0]]
        if self.norm.op_type == "LayerNormalization":
            x = build.node("Sub", [x, build.node("ReduceMean", [x, build.ints(-1)])])
        squares = build.node("ReduceMean", [build.node("Mul", [x, x]), build.ints(-1)])
        epsilon = build.floats(self.norm.attributes.get_float("epsilon", 1e-5))
        inverse = build.node("Reciprocal", [build.node("Add", [squares, epsilon])])
        return build.node("Reshape", [inverse, build.ints(-1)])


def norm_behind(site: Site) -> ir.Node | None:
    """The norm over channels that reads what the site adds to, row by row; None if there is none.

    Between them lie nothing but Adds, of a bias and of the stream.
    """
    value = site.node.outputs[0]
    while True:
        adds = []
        for node, index in value.uses():
            if node.op_type in NORMS and node.domain == "" and index == 0 and _by_channel(node):
                return node
            if node.op_type == "Add":
                adds.append(node)
        if len(adds) != 1:
            return None
        others = [each for each in adds[0].inputs if each is not value and each is not None]
        if not all(_is_bias(each) or same_shape(value, each) for each in others):
            return None
        value = adds[0].outputs[0]


def _by_channel(norm: ir.Node) -> bool:
    value = norm.inputs[0]
    rank = 0 if value is None or value.shape is None else len(value.shape)
    return norm.attributes.get_int("axis", -1) in (-1, rank - 1)


def _is_bias(value: ir.Value) -> bool:
    return is_constant(value) and value.shape is not None and len(value.shape) == 1
