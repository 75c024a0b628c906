"""Divergence along the depth: what moved is found, what did not is told as equal."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support.graphs import parse

from bitfold.frontend import value_divergence as module
from bitfold.frontend.value_divergence import value_divergence

GRAPH = """
g (float[N, 2] x) => (float[N, 2] y) <float[2] one = {{1.0, 1.0}}, float[2] s = {{{s}}}> {{
    a = Add (x, one)
    b = Mul (a, s)
    c = Cast <to = 7> (b)
    d = Identity (b)
    y = Sub (b, one)
}}
"""
X = {"x": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)}


def test_measures_each_value() -> None:
    before, after = parse(GRAPH.format(s="1.0, 1.0")), parse(GRAPH.format(s="1.0, 1.1"))
    found = {each.value: each for each in value_divergence(before, after, X)}
    assert list(found) == ["a", "b", "y"]  # not the integers, and not twice the same
    assert found["a"].sqnr_db == math.inf
    assert found["a"].cosine == 1.0
    old = np.array([[2.0, 3.0], [4.0, 5.0]])
    new = old * [1.0, 1.1]
    expected = 10 * math.log10((old**2).sum() / ((old - new) ** 2).sum())
    assert found["b"].sqnr_db == pytest.approx(expected, abs=1e-3)
    cosine = (old * new).sum() / math.sqrt((old**2).sum() * (new**2).sum())
    assert found["b"].cosine == pytest.approx(cosine, abs=1e-6)
    assert (found["b"].op, found["y"].op) == ("Mul", "Sub")
    assert found["y"].sqnr_db < found["b"].sqnr_db  # the signal shrank, the error did not


def test_leaves_out_what_has_another_shape_or_name() -> None:
    before = parse("g (float[N, 2] x) => (float[N, 2] y) { a = Relu (x)  y = Abs (a) }")
    after = parse(
        "g (float[N, 2] x) => (float[N, 2] y) { a = Transpose (x)  b = Relu (x)  y = Abs (b) }"
    )
    feeds = {"x": np.ones((3, 2), np.float32)}
    assert [each.value for each in value_divergence(before, after, feeds)] == ["y"]


def test_few_values_and_little_memory_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = "  ".join(f"v{i + 1} = Add (v{i}, v{i})" for i in range(40))
    model = parse(f"g (float[N, 2] v0) => (float[N, 2] v40) {{ {steps} }}")
    feeds = {"v0": np.ones((3, 2), np.float32)}
    opened: list[int] = []
    real = module.open_session

    def counted(graph: object, **options: object) -> object:
        opened.append(len(options["outputs"]))  # type: ignore[arg-type]
        return real(graph, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "open_session", counted)
    assert len(value_divergence(model, model, feeds)) == 40
    assert max(opened) > 8  # small values: chunks grow
    opened.clear()
    monkeypatch.setattr(module, "CHUNK_BYTES", 100)  # two values of 24 bytes in both models
    assert len(value_divergence(model, model, feeds)) == 40
    assert max(opened[2:]) <= 2
    monkeypatch.setattr(module, "MOST", 5)
    names = [each.value for each in value_divergence(model, model, feeds)]
    assert names == ["v1", "v11", "v21", "v30", "v40"]
