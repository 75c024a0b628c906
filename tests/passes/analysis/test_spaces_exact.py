"""Changes of coordinates on small graphs that once went wrong: exact, or refused."""

import numpy as np
import pytest
from support.graphs import parse
from support.space_checks import CHANGES, assert_exact

RNG = np.random.default_rng(0)


def f(*shape):
    return RNG.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(shape[0]))


def i(*numbers):
    return np.array(numbers, np.int64)


# Each graph reads x [2, 3, 8] (or [2, 8, 6, 6] where it is named "pixels").
ROWS = "float[2, 3, 8] x"
PIXELS = "float[2, 8, 6, 6] x"
CASES = {
    # name: (inputs, outputs, nodes, constants)
    "padded channels": (
        ROWS,
        "float[2, 3, 4] y",
        "a = MatMul(x, w)\n p = Pad(a, pads)\n y = MatMul(p, v)",
        {"w": f(8, 6), "pads": i(0, 0, 1, 0, 0, 1), "v": f(8, 4)},
    ),
    "shifted channels": (
        ROWS,
        "float[2, 3, 4] y",
        "a = MatMul(x, w)\n p = Pad(a, pads)\n y = MatMul(p, v)",
        {"w": f(8, 6), "pads": i(0, 0, 1, 0, 0, -1), "v": f(6, 4)},
    ),
    "rows padded with ones": (
        ROWS,
        "float[2, 5, 4] y",
        "a = MatMul(x, w)\n p = Pad(a, pads, one)\n y = MatMul(p, v)",
        {"w": f(8, 6), "pads": i(0, 1, 0, 0, 1, 0), "one": np.float32(1), "v": f(6, 4)},
    ),
    "rounded by a cast": (
        ROWS,
        "float[2, 3, 4] y",
        "a = MatMul(x, w)\n c = Cast<to = 7>(a)\n d = Cast<to = 1>(c)\n y = MatMul(d, v)",
        {"w": 8 * f(8, 6), "v": f(6, 4)},
    ),
    "times another activation": (
        "float[2, 3, 8] x, float[2, 3, 6] z",
        "float[2, 3, 4] y",
        "a = MatMul(x, w)\n m = Mul(a, z)\n y = MatMul(m, v)",
        {"w": f(8, 6), "v": f(6, 4)},
    ),
    "one number by channels": (
        ROWS,
        "float[2, 3, 4] y",
        "a = MatMul(x, w)\n e = Exp(a)\n g = MatMul(x, one)\n m = Div(g, a)\n y = MatMul(m, v)",
        {"w": f(8, 6), "one": f(8, 1), "v": f(6, 4)},
    ),
    "softmax of heads": (
        ROWS,
        "float[2, 3, 4] y",
        """a = MatMul(x, w)
           h = Reshape(a, heads)
           s = Softmax<axis = -1>(h)
           o = Reshape(s, flat)
           y = MatMul(o, v)""",
        {"w": f(8, 12), "heads": i(2, 3, 3, 4), "flat": i(2, 3, 12), "v": f(12, 4)},
    ),
    "power of a constant": (
        ROWS,
        "float[2, 3, 4] y",
        "a = MatMul(x, w)\n p = Pow(two, a)\n y = MatMul(p, v)",
        {"w": f(8, 6), "two": np.float32(2), "v": f(6, 4)},
    ),
    "a power for each channel": (
        ROWS,
        "float[2, 3, 4] y",
        "a = MatMul(x, w)\n b = Abs(a)\n p = Pow(b, e)\n y = MatMul(p, v)",
        {"w": f(8, 6), "e": np.arange(1, 7, dtype=np.float32) / 3, "v": f(6, 4)},
    ),
    "a mask from channels": (
        ROWS,
        "float[2, 3, 4] y",
        """a = MatMul(x, w)
           m = Cast<to = 9>(a)
           b = MatMul(x, u)
           c = Where(m, b, zero)
           y = MatMul(c, v)""",
        {"w": np.round(3 * f(8, 6)), "u": f(8, 6), "v": f(6, 4), "zero": np.float32(0)},
    ),
    "a mask over channels": (
        ROWS,
        "float[2, 3, 4] y",
        "a = MatMul(x, w)\n c = Where(mask, a, zero)\n y = MatMul(c, v)",
        {"w": f(8, 6), "mask": np.arange(6) % 2 == 0, "v": f(6, 4), "zero": np.float32(0)},
    ),
    "filled channel by channel": (
        "float[2, 3, 8] x, bool[2, 3, 1] mask",
        "float[2, 3, 4] y",
        "a = MatMul(x, w)\n c = Where(mask, a, fill)\n y = MatMul(c, v)",
        {"w": f(8, 6), "fill": f(6), "v": f(6, 4)},
    ),
    "a norm's bias is computed": (
        ROWS,
        "float[2, 3, 4] y",
        """a = MatMul(x, w)
           r = ReduceMean<keepdims = 0>(x, rows)
           b = MatMul(r, u)
           n = LayerNormalization<axis = -1>(a, gain, b)
           y = MatMul(n, v)""",
        {"w": f(8, 6), "rows": i(0, 1), "u": f(8, 6), "gain": f(6), "v": f(6, 4)},
    ),
    "a norm's gain is computed": (
        ROWS,
        "float[2, 3, 4] y",
        """a = MatMul(x, w)
           r = ReduceMean<keepdims = 0>(x, rows)
           b = MatMul(r, u)
           n = RMSNormalization<axis = -1>(a, b)
           y = MatMul(n, v)""",
        {"w": f(8, 6), "rows": i(0, 1), "u": f(8, 6), "v": f(6, 4)},
    ),
    "a norm with one gain": (
        ROWS,
        "float[2, 3, 4] y",
        """a = MatMul(x, w)
           n = RMSNormalization<axis = -1>(a, gain)
           y = MatMul(n, v)""",
        {"w": f(8, 6), "gain": np.ones(1, np.float32), "v": f(6, 4)},
    ),
    "a batch norm of heads": (
        ROWS,
        "float[2, 3, 4] y",
        """a = MatMul(x, w)
           n = BatchNormalization(a, g, b, m, s)
           y = MatMul(n, v)""",
        {"w": f(8, 6), "g": f(3), "b": f(3), "m": f(3), "s": np.ones(3, np.float32), "v": f(6, 4)},
    ),
    "a batch norm's bias is computed": (
        PIXELS,
        "float[2, 4, 6, 6] y",
        """a = Conv<kernel_shape = [1, 1]>(x, w)
           r = ReduceMean<keepdims = 0>(x, rows)
           c = MatMul(r, u)
           n = BatchNormalization(a, g, c, m, s)
           y = Conv<kernel_shape = [1, 1]>(n, v)""",
        {
            "w": f(6, 8, 1, 1),
            "rows": i(0, 2, 3),
            "u": f(8, 6),
            "g": f(6),
            "m": f(6),
            "s": np.ones(6, np.float32),
            "v": f(4, 6, 1, 1),
        },
    ),
    "a conv's bias is computed": (
        PIXELS,
        "float[2, 4, 6, 6] y",
        """r = ReduceMean<keepdims = 0>(x, rows)
           c = MatMul(r, u)
           a = Conv<kernel_shape = [1, 1]>(x, w, c)
           y = Conv<kernel_shape = [1, 1]>(a, v)""",
        {"w": f(6, 8, 1, 1), "rows": i(0, 2, 3), "u": f(8, 6), "v": f(4, 6, 1, 1)},
    ),
    "maxima over channels": (
        ROWS,
        "float[2, 3, 4] y",
        """a = MatMul(x, w)
           b = Unsqueeze(a, one)
           p = MaxPool<kernel_shape = [1, 2], strides = [1, 2]>(b)
           c = Squeeze(p, one)
           y = MatMul(c, v)""",
        {"w": f(8, 6), "one": i(1), "v": f(3, 4)},
    ),
    "where the maxima are": (
        PIXELS,
        "float[2, 6, 3, 3] y, int64[2, 6, 3, 3] at",
        """a = Conv<kernel_shape = [1, 1]>(x, w)
           y0, at = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a)
           y = Conv<kernel_shape = [1, 1]>(y0, v)""",
        {"w": f(6, 8, 1, 1), "v": f(6, 6, 1, 1)},
    ),
    "a grouped conv of the input": (
        PIXELS,
        "float[2, 4, 6, 6] y",
        """a = Conv<kernel_shape = [1, 1], group = 2>(x, w)
           y = Conv<kernel_shape = [1, 1]>(a, v)""",
        {"w": f(6, 4, 1, 1), "v": f(4, 6, 1, 1)},
    ),
    "a depthwise conv of the input": (
        PIXELS,
        "float[2, 4, 6, 6] y",
        """a = Conv<kernel_shape = [1, 1], group = 8>(x, w)
           y = Conv<kernel_shape = [1, 1]>(a, v)""",
        {"w": f(16, 1, 1, 1), "v": f(4, 16, 1, 1)},
    ),
    "a depthwise conv": (
        PIXELS,
        "float[2, 4, 4, 4] y",
        """a = Conv<kernel_shape = [1, 1]>(x, u)
           b = Conv<kernel_shape = [3, 3], group = 6>(a, w, c)
           y = Conv<kernel_shape = [1, 1]>(b, v)""",
        {"u": f(6, 8, 1, 1), "w": f(6, 1, 3, 3), "c": f(6), "v": f(4, 6, 1, 1)},
    ),
    "a conv that reads heads": (
        ROWS,
        "float[2, 4, 2, 4] y",
        """a = MatMul(x, w)
           h = Reshape(a, heads)
           y = Conv<kernel_shape = [1, 1]>(h, v)""",
        {"w": f(8, 8), "heads": i(2, 3, 2, 4), "v": f(4, 3, 1, 1)},
    ),
    "one Transpose for two": (
        ROWS,
        "float[2, 3, 4] y, float[2, 3, 6] z",
        """t = Transpose<perm = [1, 0]>(w)
           a = MatMul(x, t)
           y = MatMul(a, v)
           z = MatMul(x, t)""",
        {"w": f(6, 8), "v": f(6, 4)},
    ),
    "a Transpose that is read as data": (
        ROWS,
        "float[2, 3, 4] y, float[8, 6] z",
        """t = Transpose<perm = [1, 0]>(w)
           a = MatMul(x, t)
           y = MatMul(a, v)
           z = Neg(t)""",
        {"w": f(6, 8), "v": f(6, 4)},
    ),
    "channels of two rows": (
        ROWS,
        "float[2, 2, 4] y",
        """a = MatMul(x, w)
           p = Slice(a, zero, two, one)
           q = Slice(a, one, three, one)
           pl = Slice(p, zero, three, last)
           qh = Slice(q, three, six, last)
           c = Concat<axis = -1>(pl, qh)
           y = MatMul(c, v)""",
        {
            "w": f(8, 6),
            "zero": i(0),
            "two": i(2),
            "one": i(1),
            "three": i(3),
            "six": i(6),
            "last": i(2),
            "v": f(6, 4),
        },
    ),
    "the sum of some squares of two rows": (
        ROWS,
        "float[2, 2, 4] y",
        """a = MatMul(x, w)
           p = Slice(a, zero, two, one)
           q = Slice(a, one, three, one)
           pl = Slice(p, zero, three, last)
           qh = Slice(q, three, six, last)
           c = Concat<axis = -1>(pl, qh)
           n = RMSNormalization<axis = -1>(c, gain)
           y = MatMul(n, v)""",
        {
            "w": f(8, 6),
            "zero": i(0),
            "two": i(2),
            "one": i(1),
            "three": i(3),
            "six": i(6),
            "last": i(2),
            "v": f(6, 4),
            "gain": np.ones(6, np.float32),
        },
    ),
    "rows across each other": (
        "float[3, 3, 8] x",
        "float[3, 3, 4] y",
        """a = MatMul(x, w)
           t = Transpose<perm = [1, 0, 2]>(a)
           p, r = Split<axis = -1, num_outputs = 2>(a)
           s, q = Split<axis = -1, num_outputs = 2>(t)
           c = Concat<axis = -1>(p, q)
           y = MatMul(c, v)""",
        {"w": f(8, 6), "v": f(6, 4)},
    ),
    "every pair of rows": (
        "float[3, 8] x",
        "float[3, 3, 4] y",
        """a = MatMul(x, w)
           b = Unsqueeze(a, one)
           d = Unsqueeze(a, zero)
           e = Expand(b, square)
           g = Expand(d, square)
           p, r = Split<axis = -1, num_outputs = 2>(e)
           s, q = Split<axis = -1, num_outputs = 2>(g)
           c = Concat<axis = -1>(p, q)
           y = MatMul(c, v)""",
        {"w": f(8, 6), "one": i(1), "zero": i(0), "square": i(3, 3, 6), "v": f(6, 4)},
    ),
    "two times interleaved otherwise": (
        ROWS,
        "float[2, 3, 4] y",
        """a = MatMul(x, w)
           b = MatMul(a, u)
           s = Add(a, b)
           c = Concat<axis = -1>(a, s)
           d = Gather<axis = -1>(c, order)
           y = MatMul(d, v)""",
        {
            "w": f(8, 6),
            "u": f(6, 6),
            "v": f(12, 4),
            "order": i(0, 1, 8, 3, 4, 5, 6, 7, 2, 9, 10, 11),
        },
    ),
    "linked in pairs, read in another order": (
        ROWS,
        "float[2, 3, 4] y, float[2, 3, 4] z",
        """a = MatMul(x, w)
           b = Gather<axis = -1>(a, swapped)
           s = Add(a, b)
           z = MatMul(s, u)
           d = Gather<axis = -1>(a, order)
           y = MatMul(d, v)""",
        {
            "w": f(8, 4),
            "swapped": i(1, 0, 3, 2),
            "order": i(1, 0, 2, 3),
            "u": f(4, 4),
            "v": f(4, 4),
        },
    ),
    "a cache that others read": (
        "float[2, 3, 8] x, float[2, 2, 1, 4] past",
        "float[2, 3, 4] y, float[2, 2, 4, 4] kept, float[2, 2, 1, 4] z",
        """a = MatMul(x, w)
           r = Reshape(a, heads)
           t = Transpose<perm = [0, 2, 1, 3]>(r)
           kept = Concat<axis = 2>(past, t)
           z = Neg(past)
           p = MatMul(attention, kept)
           q = Transpose<perm = [0, 2, 1, 3]>(p)
           o = Reshape(q, flat)
           y = MatMul(o, v)""",
        {
            "w": f(8, 8),
            "heads": i(2, 3, 2, 4),
            "flat": i(2, 3, 8),
            "attention": f(3, 4),
            "v": f(8, 4),
        },
    ),
    "a cache of rotary keys": (
        "float[2, 3, 8] x, float[2, 2, 1, 4] past",
        "float[2, 3, 4] y, float[2, 2, 4, 4] kept",
        """q = MatMul(x, w)
           k = MatMul(x, u)
           q4 = Reshape(q, heads)
           qt = Transpose<perm = [0, 2, 1, 3]>(q4)
           k4 = Reshape(k, heads)
           kt = Transpose<perm = [0, 2, 1, 3]>(k4)
           first, second = Split<axis = -1, num_outputs = 2>(kt)
           neg = Neg(second)
           swapped = Concat<axis = -1>(neg, first)
           kc = Mul(kt, cos)
           ks = Mul(swapped, sin)
           kr = Add(kc, ks)
           kept = Concat<axis = 2>(past, kr)
           keys = Transpose<perm = [0, 1, 3, 2]>(kept)
           scores = MatMul(qt, keys)
           y0 = ReduceMean<keepdims = 0>(scores, one)
           y = Mul(y0, two)""",
        {
            **{"w": f(8, 8), "u": f(8, 8), "heads": i(2, 3, 2, 4), "one": i(1)},
            **{"cos": f(3, 4), "sin": f(3, 4), "two": np.float32(2)},
        },
    ),
    "a cache of partly rotary keys": (
        "float[2, 3, 8] x, float[2, 2, 1, 10] past",
        "float[2, 3, 4] y, float[2, 2, 4, 10] kept",
        """q = MatMul(x, w)
           k = MatMul(x, u)
           q4 = Reshape(q, heads)
           qt = Transpose<perm = [0, 2, 1, 3]>(q4)
           k4 = Reshape(k, heads)
           kt = Transpose<perm = [0, 2, 1, 3]>(k4)
           qr = RotaryEmbedding<rotary_embedding_dim = 4>(qt, cos, sin)
           kr = RotaryEmbedding<rotary_embedding_dim = 4>(kt, cos, sin)
           kept = Concat<axis = 2>(past, kr)
           keys = Transpose<perm = [0, 1, 3, 2]>(kept)
           scores = MatMul(qr, keys)
           y = ReduceMean<keepdims = 0>(scores, one)""",
        {
            **{"w": f(8, 20), "u": f(8, 20), "heads": i(2, 3, 2, 10), "one": i(1)},
            **{"cos": f(2, 3, 2), "sin": f(2, 3, 2)},
        },
    ),
    "a mask with heads": (
        "float[2, 3, 8] x, int64[3, 3] buckets",
        "float[2, 3, 4] y, float[3, 3, 5] z",
        """q = MatMul(x, wq)
           e = Gather(table, buckets)
           m = Transpose<perm = [2, 0, 1]>(e)
           z = MatMul(e, u)
           o = Attention<q_num_heads = 2, kv_num_heads = 2>(q, q, q, m)
           y = MatMul(o, v)""",
        {"wq": f(8, 8), "table": f(9, 2), "u": f(2, 5), "v": f(8, 4)},
    ),
    "rotary tables are gathered": (
        "float[2, 3, 8] x, int64[3] at",
        "float[2, 3, 4] y, float[3, 5] z",
        """q = MatMul(x, wq)
           c = Gather(cos, at)
           z = MatMul(c, u)
           s = Gather(sin, at)
           c3 = Unsqueeze(c, zero)
           s3 = Unsqueeze(s, zero)
           c2 = Expand(c3, both)
           s2 = Expand(s3, both)
           r = RotaryEmbedding<num_heads = 2>(q, c2, s2)
           y = MatMul(r, v)""",
        {
            "wq": f(8, 8),
            "cos": f(9, 2),
            "sin": f(9, 2),
            "zero": i(0),
            "both": i(2, 3, 2),
            "u": f(2, 5),
            "v": f(8, 4),
        },
    ),
    "a constant in reverse": (
        ROWS,
        "float[2, 3, 4] y",
        """a = MatMul(x, w)
           r = Slice(c, end, begin, axis, back)
           s = Add(a, r)
           y = MatMul(s, v)""",
        {
            "w": f(8, 6),
            "c": f(3, 6),
            "end": i(-1),
            "begin": i(-100),
            "axis": i(1),
            "back": i(-1),
            "v": f(6, 4),
        },
    ),
    "a vector is multiplied": (
        "float[8] x, float[6] z",
        "float[4] y, float u",
        "a = MatMul(x, w)\n y = MatMul(a, v)\n u = MatMul(a, z)",
        {"w": f(8, 6), "v": f(6, 4)},
    ),
    "an extra head on another axis": (
        "float[b, 6] x",
        "float[2, n, 4] y",
        "a = MatMul(x, w)\n r = Reshape(a, to)\n y = MatMul(r, v)",
        {"w": f(6, 6), "to": i(2, -1, 3), "v": f(3, 4)},
    ),
    "no rows at all": (
        ROWS,
        "float[2, 0, 4] y",
        "a = MatMul(x, w)\n s = Slice(a, zero, zero, one)\n y = MatMul(s, v)",
        {"w": f(8, 6), "zero": i(0), "one": i(1), "v": f(6, 4)},
    ),
    "no channels at all": (
        ROWS,
        "float[2, 3, 6] y",
        """a = MatMul(x, w)
           s = Slice(a, zero, zero, two)
           c = Concat<axis = -1>(a, s)
           y = MatMul(c, v)""",
        {"w": f(8, 6), "zero": i(0), "two": i(2), "v": f(6, 6)},
    ),
}
SIZES = {"b": 1, "p": 2}


def feeds(model):
    found = {}
    for value in model.graph.inputs:
        shape = [dim if isinstance(dim, int) else SIZES[dim.value] for dim in value.shape]
        dtype = value.dtype.numpy()
        if dtype == np.float32:
            found[value.name] = RNG.standard_normal(shape).astype(np.float32)
        else:
            found[value.name] = RNG.integers(0, 2, shape).astype(dtype)
    return found


@pytest.mark.parametrize("symmetry", CHANGES, ids=lambda each: each.name)
@pytest.mark.parametrize("name", CASES)
def test_exact_or_refused(name, symmetry):
    inputs, outputs, nodes, constants = CASES[name]
    model = parse(f"g ({inputs}) => ({outputs}) {{\n{nodes}\n}}", **constants)
    assert_exact(model, feeds(model), symmetry)


def test_what_is_safe_is_changed():
    changed = set()
    for name in ("rows padded with ones", "a depthwise conv", "channels of two rows"):
        inputs, outputs, nodes, constants = CASES[name]
        for symmetry in CHANGES:
            model = parse(f"g ({inputs}) => ({outputs}) {{\n{nodes}\n}}", **constants)
            if assert_exact(model, feeds(model), symmetry):
                changed.add((name, symmetry.name))
    assert changed >= {
        ("rows padded with ones", "PERMUTE"),
        ("a depthwise conv", "SCALE"),
        ("a depthwise conv", "PERMUTE"),
        ("channels of two rows", "ROTATE"),
    }
