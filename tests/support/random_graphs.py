"""Random models with real weights, of the parts that networks are made of, for Hypothesis.

A part takes the builder and a value, and gives another value; a model is a few parts in a row.
To add one, write a function and name it below: of rows [batch, rows, channels] or of pixels
[batch, channels, y, x].  Everything is drawn through ``Builder.pick``, so that Hypothesis can make
a failing model smaller.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from hypothesis import strategies as st
from support import random_attention, random_pixels, random_rows
from support.graph_builder import Builder, Draw, Made, Part


def residual(b: Builder, x: Made) -> Made:
    """A branch and the way around it, with the norm before or behind; or two branches at once."""
    way = b.pick(("pre", "post", "parallel", "none"))
    branch = b.pick(BRANCHES)
    if way == "post":
        return random_rows.norm(b, b.same("Add", branch(b, x), x))
    y = x if way == "none" else random_rows.norm(b, x)
    sum_ = b.same("Add", x, branch(b, y))
    return b.same("Add", sum_, b.pick(BRANCHES)(b, y)) if way == "parallel" else sum_


BRANCHES: tuple[Part, ...] = (random_rows.mlp, random_attention.attention, random_rows.straight)

ROW_PARTS: tuple[Part, ...] = (
    residual,
    random_rows.norm,
    random_rows.activation,
    random_rows.mlp,
    random_attention.attention,
    random_rows.projected,
    random_rows.with_earlier,
    random_rows.shuffle,
    random_rows.shifted,
    random_rows.vector,
    random_rows.gated,
    random_rows.in_graph,
    random_rows.table,
    random_rows.tied,
    random_rows.turned_rows,
)

PIXEL_PARTS: tuple[Part, ...] = (
    random_pixels.conv,
    random_pixels.batch_norm,
    random_pixels.activation,
    random_pixels.block,
    random_pixels.bottleneck,
    random_pixels.squeeze,
    random_pixels.pool,
    random_pixels.resized,
    random_pixels.shuffled,
    random_pixels.unshuffled,
    random_pixels.joined,
    random_pixels.group_norm,
)


def build(draw: Draw) -> tuple[ir.Model, dict[str, np.ndarray]]:
    """A model and inputs for it, of what ``draw`` draws from strategies."""
    b = Builder(draw, np.random.default_rng(draw(st.integers(0, 2**32 - 1))), opset=23)
    names = b.pick((("b", "s"), (2, 5), ("b", 5), (1, "s")))
    batch, rows = (size if isinstance(size, int) else {"b": 2, "s": 5}[size] for size in names)
    if b.pick((True, True, False)):
        x = b.feed("x", b.floats(batch, rows, 8), (*names, 8))
        x = random_rows.linear(b, x, b.pick((16, 24)))
        parts = ROW_PARTS
    else:
        x = b.feed("x", b.floats(batch, 3, 8, 8), (names[0], 3, *b.pick(((8, 8), ("y", "z")))))
        x = random_pixels.conv(b, x)
        parts = PIXEL_PARTS
    for _ in range(b.pick((1, 2, 3, 4, 5, 6))):
        x = b.pick(parts)(b, x)
        if b.pick((False, False, False, True)):
            b.show(x)
    b.show(random_rows.linear(b, x, 5) if parts is ROW_PARTS else random_pixels.head(b, x))
    return b.model(), b.feeds


@st.composite
def random_models(draw: Draw) -> tuple[ir.Model, dict[str, np.ndarray]]:
    """A model and inputs for it."""
    return build(draw)
