"""Small constants are computed ahead; what would grow beyond memory never is."""

from __future__ import annotations

import numpy as np
import pytest
from support.graphs import census, parse

from bitfold.passes.canonicalize.cleanup import clean_up


def ints(*values):
    return np.array(values, np.int64)


def test_small_constants_are_folded():
    model = parse(
        """g (float[n, 4] x) => (float[n, 4] y) {
            a = Add(u, v)
            b = Mul(a, u)
            y = Add(x, b)
        }""",
        u=np.ones(4, np.float32),
        v=np.ones(4, np.float32),
    )
    clean_up(model, 100)
    assert census(model) == {"Add": 1}


@pytest.mark.parametrize(
    ("lines", "constants", "op_type"),
    [
        ("c = ConstantOfShape(to)", {"to": ints(2**40)}, "ConstantOfShape"),
        ("c = ConstantOfShape(to)", {"to": ints(2**31, 2**31)}, "ConstantOfShape"),
        ("c = Expand(one, to)", {"one": np.ones(1, np.float32), "to": ints(2**40)}, "Expand"),
        ("c = Tile(one, to)", {"one": np.ones(1, np.float32), "to": ints(2**40)}, "Tile"),
        (
            "c = Range(a, b, s)",
            {"a": np.float32(0), "b": np.float32(2**40), "s": np.float32(1)},
            "Range",
        ),
        (
            "c = Range(a, b, s)",
            {"a": np.float32(0), "b": np.float32(1), "s": np.float32(0)},
            "Range",
        ),
    ],
)
def test_a_few_numbers_do_not_fill_the_memory(lines, constants, op_type):
    text = f"g (float[n] x) => (float[n] y, float[m] c) {{ {lines}\n y = Relu(x) }}"
    model = parse(text, **constants)
    clean_up(model, 100)
    assert census(model) == {"Relu": 1, op_type: 1}


def test_what_cannot_be_computed_is_left_for_the_run(capfd):
    """Nothing of the optimizer's complaints reaches the terminal either."""
    model = parse(
        """g (float[n] x) => (float[n] y, seq(float[2]) s) {
            s = SplitToSequence(c, two)
            y = Relu(x)
        }""",
        c=np.ones(5, np.float32),
        two=np.array(2, np.int64),
    )
    clean_up(model, 100)
    assert census(model)["Relu"] == 1
    assert capfd.readouterr() == ("", "")


def test_what_the_optimizer_breaks_on_can_be_looked_up(caplog, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr("onnxscript.optimizer.fold_constants_ir", broken)
    model = parse("g (float[n] x) => (float[n] y) { y = Relu(x) }")
    with caplog.at_level("DEBUG", logger="bitfold.passes.canonicalize.fold_constants"):
        clean_up(model, 100)
    assert census(model) == {"Relu": 1}
    assert "no such kernel" in caplog.text
