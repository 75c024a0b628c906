"""Weigh a token by how much attention it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import onnx_ir as ir

from bitfold.passes.analysis.row_origin import Axis, origins
from bitfold.passes.analysis.sites import Site, input_at
from bitfold.passes.calibrate.append import Appender
from bitfold.runtime.ops import DOMAIN
from bitfold.runtime.ops.fused_attention import INPUTS, FusedAttention

LEAST = 0.005
"""What the token of the least attention counts, where the one of the most counts 1."""

SINK = 0.25
"""Share of all attention that makes a token a sink."""

PROBABILITIES = 3
"""Attention's `qk_matmul_output_mode` that gives the probabilities."""


Rows = tuple[int | frozenset[Axis], ...]


@dataclass(frozen=True)
class AttentionReceived:
    """Weights by the attention that tokens get, over all queries and heads, from `LEAST` to 1.

    Tokens that others look at much matter more, and the loss of rounding is to be lowered for them
    first (RSQ: Sung et al., arXiv 2503.01820, "AttnCon"; the range is that of its published
    experiments).  In each sequence the sums are spread evenly over the range.

    Attributes:
        attention: an Attention, or a ``bitfold.FusedAttention``, of tokens to themselves.
    """

    attention: ir.Node

    @property
    def key(self) -> str:
        return f"{type(self).__name__} {self.attention.outputs[0].name}"

    @property
    def reads(self) -> list[str]:
        return [str(value.name) for value in self.attention.inputs if value is not None]

    def add(self, build: Appender, values: dict[str, ir.Value]) -> ir.Value:
        inputs = [
            None if each is None else values[str(each.name)] for each in self.attention.inputs
        ]
        fused = self.attention.domain == DOMAIN
        got = (_fused_received if fused else _received)(build, self.attention, inputs)
        return build.node("Reshape", [self.weights(build, got), build.ints(-1)])

    def weights(self, build: Appender, got: ir.Value) -> ir.Value:
        """Weights [batch, sequence] from the sums over queries and heads."""
        low = build.node("ReduceMin", [got, build.ints(1)])
        span = build.node("Sub", [build.node("ReduceMax", [got, build.ints(1)]), low])
        span = build.node("Max", [span, build.floats(1e-30)])
        share = build.node("Div", [build.node("Sub", [got, low]), span])
        scaled = build.node("Mul", [share, build.floats(1 - LEAST)])
        return build.node("Add", [scaled, build.floats(LEAST)])


@dataclass(frozen=True)
class Uses(AttentionReceived):
    """Weights by uses, where an attention has a sink: a token that much of it goes to.

    A token's error counts once for itself, and for the tokens that look at it: each has one look,
    which its heads share out in the mean as their attention says.  In sequences without a sink
    tokens count alike, for unequal weights leave fewer of them to tell what inputs are like.

    Sites that no attention is behind, as a language model's head, have no such weights: nobody
    looks at what they make.
    """

    def weights(self, build: Appender, got: ir.Value) -> ir.Value:
        mean = build.node("ReduceMean", [got, build.ints(1)])
        looks = build.node("Div", [got, build.node("Max", [mean, build.floats(1e-30)])])
        most = build.node("ReduceMax", [looks, build.ints(1)])
        count = build.node("ReduceSum", [looks, build.ints(1)])
        least = build.node("Mul", [count, build.floats(SINK)])
        sink = build.node("Greater", [most, least], None, ir.DataType.BOOL)
        one = build.floats(1.0)
        return build.node("Add", [build.node("Where", [sink, looks, one]), one])


def _received(build: Appender, attention: ir.Node, inputs: list[ir.Value | None]) -> ir.Value:
    """What each new key of an Attention gets, [B, S]."""
    attributes = list(attention.attributes.values())
    twin = ir.Node("", "Attention", inputs, attributes, num_outputs=4)
    mode = "qk_matmul_output_mode"
    twin.attributes[mode] = ir.AttrInt64(mode, PROBABILITIES)
    every = build.node("ReduceSum", [build.append(twin), build.ints(1, 2)], {"keepdims": 0})
    key = inputs[1]
    assert key is not None, "self-attention has its keys"
    assert key.shape is not None, "and they were followed"
    axis = 2 if len(key.shape) == 4 else 1
    # The past comes first.
    count = build.node("Neg", [build.shape(key, axis, axis + 1)], None, ir.DataType.INT64)
    return build.node("Slice", [every, count, build.ints(2**31), build.ints(1)])


def _fused_received(build: Appender, attention: ir.Node, inputs: list[ir.Value | None]) -> ir.Value:
    """What each new key of a FusedAttention gets, [B, S]."""
    function = operator_of(attention).received()
    attributes = list(attention.attributes.values())
    twin = ir.Node(DOMAIN, function.name, inputs, attributes, overload=function.overload)
    build.functions[function.identifier()] = function
    return build.append(twin)


def operator_of(attention: ir.Node) -> FusedAttention:
    """The configuration of a FusedAttention."""
    given = {each.name: each for each in fields(FusedAttention)}
    set_here = {name: each.value for name, each in attention.attributes.items() if name in given}
    there = {"past": "past_key", "rotary": "cos"}
    inputs = {
        name: input_at(attention, INPUTS.index(there.get(name, name))) is not None
        for name in ("key", "past", "lengths", "total", "rotary", "mask")
    }
    flags = {name: bool(set_here[name]) for name in ("packed", "causal", "interleaved")}
    present = len(attention.outputs) > 1
    return FusedAttention(**{**set_here, **flags, **inputs, "present": present})


def attention_of_sites(graph: ir.Graph, sites: Sequence[Site]) -> dict[ir.Node, ir.Node]:
    """The self-attention that says how much the tokens of a site matter, by the site's node.

    It is the one that the site makes queries, keys or values for, and else the last one before the
    site.  Sites whose rows are not certainly its tokens are left out.
    """
    nodes = {site.node for site in sites}
    last: dict[ir.Value, ir.Node] = {}
    place: dict[ir.Node, int] = {}
    ahead: dict[ir.Node, ir.Node] = {}
    for index, node in enumerate(graph):
        before = [last[value] for value in node.inputs if value in last]
        latest = max(before, key=place.__getitem__, default=None)
        if _to_itself(node):
            latest, place[node] = node, index
            for made in _makers(node, nodes):
                ahead.setdefault(made, node)
        if latest is not None:
            last.update(dict.fromkeys(node.outputs, latest))
    found = {}
    for site in sites:
        attention = ahead.get(site.node) or last.get(site.data)
        if attention is not None and _tokens(attention) == _rows(site.data):
            found[site.node] = attention
    return found


def looked_at_behind(graph: ir.Graph) -> set[ir.Node]:
    """The nodes that lead to a self-attention, or are one."""
    found: set[ir.Node] = set()
    for node in reversed(graph):
        readers = (use.node for output in node.outputs for use in output.uses())
        if _to_itself(node) or any(reader in found for reader in readers):
            found.add(node)
    return found


def _makers(attention: ir.Node, sites: set[ir.Node]) -> list[ir.Node]:
    """The sites whose outputs reach an attention through no other site."""
    pending, seen = [attention], {attention}
    found: list[ir.Node] = []
    while pending:
        for value in pending.pop().inputs:
            node = None if value is None else value.producer()
            if node is None or node in seen:
                continue
            seen.add(node)
            (found if node in sites else pending).append(node)
    return found


def _to_itself(node: ir.Node) -> bool:
    """Whether it is an attention whose queries and new keys are certainly of the same tokens."""
    if (node.domain, node.op_type) == (DOMAIN, "FusedAttention"):
        operator = operator_of(node)
        if operator.packed:
            return _rows(node.inputs[0]) is not None
        if not operator.key:
            return False
    elif (node.domain, node.op_type) != ("", "Attention"):
        return False
    tokens = _tokens(node)
    return tokens is not None and tokens == _rows(node.inputs[1])


def _tokens(attention: ir.Node) -> Rows | None:
    return _rows(attention.inputs[0])


def _rows(value: ir.Value | None) -> Rows | None:
    """Where batch and sequence of [batch, sequence, K] or [batch, heads, sequence, K] come from."""
    if value is None or value.shape is None or len(value.shape) not in (3, 4):
        return None
    dims = [(axis, value.shape[axis]) for axis in (0, len(value.shape) - 2)]
    return tuple(dim if isinstance(dim, int) else origins((value, axis)) for axis, dim in dims)
