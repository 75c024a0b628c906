"""Hypothesis strategies that spoil a node: its attributes, and the tensors of its weight."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

INTEGERS = (
    0,
    1,
    2,
    3,
    15,
    16,
    17,
    31,
    32,
    48,
    64,
    95,
    97,
    128,
    255,
    2**15,
    2**20,
    2**30,
    2**31 - 1,
)
HUGE = (2**31, 2**32, 2**40, 2**61, 2**62, 2**63 - 1, -(2**63))
FLOATS = (0.0, -0.0, 1e-45, 1e-5, 6.0, 3e38, -3e38, float("inf"), float("-inf"), float("nan"))
STRINGS = (
    "",
    "none",
    "int8",
    "int4",
    "int1",
    "relu",
    "clip",
    "swiglu",
    "gelu",
    "x" * 5000,
    "\0",
    "é",
)
DTYPES = (np.float64, np.int64, np.int32)
"""Types that no tensor of a weight has."""

integers = st.one_of(
    st.sampled_from(INTEGERS),
    st.sampled_from(INTEGERS).map(lambda value: -value),
    st.sampled_from(HUGE),
    st.integers(1, 200),
)
Spoiled = dict[str, Any]


def like(value: Any) -> st.SearchStrategy[Any]:
    """Mostly another value of an attribute's own type; now and then another type, or none."""
    if isinstance(value, str):
        own: st.SearchStrategy[Any] = st.sampled_from(STRINGS)
    elif isinstance(value, float):
        own = st.sampled_from(FLOATS)
    elif isinstance(value, int):
        own = integers
    else:
        own = st.lists(integers, min_size=1, max_size=5)
        if value:
            near = [-1, 0, 1, 2, 3, *HUGE]
            own |= st.tuples(st.integers(0, len(value) - 1), st.sampled_from([*near, 2**20])).map(
                lambda put: [put[1] if i == put[0] else old for i, old in enumerate(value)]
            )
    other = st.one_of(
        st.none(),
        integers,
        st.sampled_from(FLOATS),
        st.sampled_from(STRINGS),
        st.lists(st.sampled_from(FLOATS), min_size=1, max_size=3),
    )
    return st.integers(0, 9).flatmap(lambda turn: other if turn == 0 else own)


@st.composite
def attributes(draw: st.DrawFn, given: Spoiled) -> Spoiled:
    """``given`` with one to three attributes changed; one that is None is left out."""
    spoiled = dict(given)
    names = st.lists(st.sampled_from(sorted(given)), min_size=1, max_size=3, unique=True)
    for name in draw(names):
        spoiled[name] = draw(like(given[name]))
    return {name: value for name, value in spoiled.items() if value is not None}


@st.composite
def tensor(draw: st.DrawFn, given: np.ndarray) -> np.ndarray:
    """A tensor of another number of elements, another shape or another type than ``given``."""
    kind = draw(st.sampled_from(("size", "size", "shape", "type")))
    if kind == "type":
        return given.astype(draw(st.sampled_from(DTYPES)))
    flat = given.reshape(-1)
    if kind == "shape":
        turned = given.transpose() if given.ndim > 1 else flat.reshape(1, -1)
        return turned if turned.shape != given.shape else flat
    sizes = st.integers(0, 2 * flat.size) | st.sampled_from([0, 1, flat.size - 1, flat.size + 1])
    return np.resize(flat, draw(sizes.filter(lambda size: size != flat.size)))
