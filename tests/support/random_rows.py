"""Parts of random models whose values are [batch, rows, channels]."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper
from support.graph_builder import Builder, Made


def linear(b: Builder, x: Made, width: int) -> Made:
    """x W + b, in one of the ways that it is written."""
    way = b.pick(("MatMul", "bias", "turned", "Gemm"))
    shape = (*x.shape[:-1], width)
    if way == "turned":
        stored = b.weight(width, x.width)
        y = b.add("MatMul", [x, b.transpose(stored, 1, 0)], shape)
    elif way == "Gemm":
        flat = b.reshape(x, int(np.prod(x.shape[:-1])), x.width)
        operands = [flat, b.weight(width, x.width), b.constant(b.floats(width))]
        y = b.reshape(b.add("Gemm", operands, (flat.shape[0], width), transB=1), *shape)
    else:
        y = b.add("MatMul", [x, b.weight(x.width, width)], shape)
    if way == "bias":
        y = b.same("Add", *b.pick(((y, bias := b.constant(b.floats(width))), (bias, y))))
    return y


def norm(b: Builder, x: Made) -> Made:
    """An RMSNorm or a LayerNorm over the last axis."""
    gain = np.ones(x.width, np.float32) if b.maybe() else 1 + b.floats(x.width, fan=9)
    operands = [x, b.constant(gain)]
    if b.maybe():
        operands += [b.constant(b.floats(x.width))] if b.maybe() else []
        return b.add("LayerNormalization", operands, x.shape, axis=-1)
    return b.add("RMSNormalization", operands, x.shape, axis=-1)


ACTIVATIONS = ("Relu", "Gelu", "Tanh", "Sigmoid", "LeakyRelu", "Softplus", "Abs", "Silu", "Softmax")


def activation(b: Builder, x: Made) -> Made:
    """A function of each element, or a Softmax."""
    op = b.pick(ACTIVATIONS)
    return b.same("Mul", x, b.same("Sigmoid", x)) if op == "Silu" else b.same(op, x)


def mlp(b: Builder, x: Made) -> Made:
    """Up, activation, down; with a gate or without."""
    hidden = b.pick((24, 16))
    way = b.pick(("plain", "gate", "fused"))
    if way == "plain":
        y = activation(b, linear(b, x, hidden))
    else:
        if way == "fused":
            gate, up = b.split(linear(b, x, 2 * hidden), (hidden, hidden), -1)
        else:
            gate, up = linear(b, x, hidden), linear(b, x, hidden)
        sides = (activation(b, gate), up)
        y = b.same("Mul", *b.pick((sides, sides[::-1])))
    return linear(b, y, x.width)


def projected(b: Builder, x: Made) -> Made:
    """Into another space."""
    return linear(b, x, b.pick((16, 24, 32)))


def with_earlier(b: Builder, x: Made) -> Made:
    """Joined with, added to or multiplied by an earlier value."""
    fitting = [v for v in b.made[:-1] if v.shape == x.shape] or [x]
    other = b.pick(fitting[-6:])
    way = b.pick(("Concat", "Add", "Sub", "Mul", "interleaved", "halves", "Div"))
    if way == "Concat":
        return linear(b, b.joined([x, other], -1), x.width)
    if way == "interleaved":
        both = b.joined([x, other], -1)
        return linear(b, shuffle(b, both), x.width)
    if way == "halves":
        half = x.width // 2
        parts = [b.cut(x, 0, half, -1), b.cut(other, half, x.width, -1)]
        return b.joined(b.pick((parts, parts[::-1])), -1)
    if way == "Div":
        return b.same("Div", x, b.same("Add", b.constant(np.float32(2)), b.same("Abs", other)))
    return b.same(way, x, other)


def shuffle(b: Builder, x: Made) -> Made:
    """Channels in another order: by Reshape and Transpose, or by Gather."""
    if b.maybe():
        order = b.constant(b.rng.permutation(x.width))
        return b.add("Gather", [x, order], x.shape, axis=-1)
    groups = b.pick((2, 4, 3))
    if x.width % groups:
        return x
    wide = b.reshape(x, *x.shape[:-1], groups, x.width // groups)
    return b.reshape(b.transpose(wide, 0, 1, 3, 2), *x.shape)


def shifted(b: Builder, x: Made) -> Made:
    """Some channels of the row before, others of this one (RWKV, TSM)."""
    rows, part = x.shape[1], b.pick((x.width // 2, 3, x.width))
    some = b.cut(x, 0, part, -1)
    pads = b.constant([0, 1, 0, 0, 0, 0])
    late = b.add("Pad", [some, pads], (x.shape[0], rows + 1, part))
    late = b.cut(late, 0, rows, 1)
    return late if part == x.width else b.joined([late, b.cut(x, part, x.width, -1)], -1)


def vector(b: Builder, x: Made) -> Made:
    """A constant for each channel, for each row and channel, or for all."""
    shape = b.pick(((x.width,), x.shape[1:], (1, 1, x.width), (), (1,), (x.shape[1], 1)))
    op = b.pick(("Add", "Mul", "Sub", "Div"))
    array = b.floats(*shape, fan=9) + np.float32(1)
    sides = (x, b.constant(array))
    return b.same(op, *(b.pick((sides, sides[::-1])) if op != "Div" else sides))


def gated(b: Builder, x: Made) -> Made:
    """Squeeze and excite, a factor for each row, or an input that masks."""
    way = b.pick(("squeeze", "row", "channels", "Where"))
    if way == "squeeze":
        axes = b.constant([1])
        mean = b.add("ReduceMean", [x, axes], (x.shape[0], 1, x.width))
        factor = b.same("Sigmoid", linear(b, mean, x.width))
    elif way == "row":
        factor = b.same("Sigmoid", linear(b, x, 1))
    else:
        shape = x.shape if way == "channels" else (*x.shape[:-1], b.pick((1, x.width)))
        array = b.floats(*shape)
        if way == "Where":
            mask = b.feed(f"mask{len(b.feeds)}", array > 0, array.shape)
            fill = b.constant(b.pick((np.float32(0), np.float32(1), b.floats(x.width))))
            return b.same("Where", mask, *b.pick(((x, fill), (fill, x))))
        factor = b.feed(f"factor{len(b.feeds)}", array, array.shape)
    return b.same("Mul", x, factor)


def in_graph(b: Builder, x: Made) -> Made:
    """An If or a Loop whose graphs read values from outside."""
    n = len(b.made)
    free = [None] * len(x.shape)

    def value(name: str, kind: int = TensorProto.FLOAT, shape: list[None] = free):
        return helper.make_tensor_value_info(f"{name}_{n}", kind, shape)

    if b.maybe():
        other = b.pick([each for each in b.made if each.shape == x.shape][-4:])
        branches = {
            key: helper.make_graph(
                [helper.make_node("Neg", [read.name], [f"{key}_{n}"])], key, [], [value(key)]
            )
            for key, read in (("then_branch", x), ("else_branch", other))
        }
        y = b.add("If", [b.constant(np.array(b.maybe()))], x.shape, **branches)
    else:
        nodes = [
            helper.make_node("Identity", [f"on_{n}"], [f"still_{n}"]),
            helper.make_node("Add", [f"sum_{n}", x.name], [f"more_{n}"]),
        ]
        given = [value("turn", TensorProto.INT64, []), value("on", TensorProto.BOOL, [])]
        kept = [value("still", TensorProto.BOOL, []), value("more")]
        body = helper.make_graph(nodes, "body", [*given, value("sum")], kept)
        start = b.constant(np.zeros(x.shape, np.float32))
        y = b.add("Loop", [b.constant(np.array(2)), None, start], x.shape, body=body)
    return linear(b, b.reshape(y, *x.shape), x.width)


def table(b: Builder, x: Made) -> Made:
    """Positions or tokens, looked up and added."""
    stored = b.constant(b.floats(x.shape[1] + 3, x.width))
    way = b.pick(("Slice", "Gather", "input"))
    if way == "Slice":
        return b.same("Add", x, b.cut(stored, 1, 1 + x.shape[1], 0))
    rows = b.rng.integers(0, len(b.weights[stored.name]), x.shape[1])
    where = b.constant(rows) if way == "Gather" else b.feed(f"at{len(b.feeds)}", rows, rows.shape)
    return b.same("Add", b.add("Gather", [stored, where], x.shape[1:], axis=0), x)


def tied(b: Builder, x: Made) -> Made:
    """A matrix that is table and head at once."""
    stored = b.constant(b.floats(9, x.width, fan=x.width))
    ids = b.rng.integers(0, 9, x.shape[:2])
    tokens = b.feed(f"tokens{len(b.feeds)}", ids, ids.shape)
    y = b.same("Add", x, b.add("Gather", [stored, tokens], x.shape, axis=0))
    y = norm(b, y) if b.maybe() else y
    b.show(b.add("MatMul", [y, b.transpose(stored, 1, 0)], (*x.shape[:2], 9)))
    return y


def turned_rows(b: Builder, x: Made) -> Made:
    """Rows turned around and mixed, by a constant or by what is computed."""
    way = b.pick(("mixed", "computed", "flat"))
    if way == "mixed":
        return b.add("MatMul", [b.constant(b.floats(x.shape[1], x.shape[1], fan=3)), x], x.shape)
    if way == "computed":
        weights = b.same("Softmax", linear(b, x, x.shape[1]), axis=-1)
        return b.add("MatMul", [weights, x], x.shape)
    flat = b.reshape(x, x.shape[0] * x.shape[1], x.width)
    return b.reshape(norm(b, flat), *x.shape)


def straight(b: Builder, x: Made) -> Made:
    """A linear operator alone."""
    return linear(b, x, x.width)
