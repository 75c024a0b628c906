"""What the tests of all exported models have in common."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import bitfold
from bitfold.frontend.importers.build import build
from bitfold.runtime.errors import BitfoldError
from bitfold.runtime.session import Session


def authored_model(name: str) -> Path:
    """The catalogue's own model, fetched and built; the test is skipped where it cannot be."""
    try:
        return build(name)
    except BitfoldError as error:
        if "could not download" in str(error) or "needs apt-get" in str(error):
            pytest.skip(str(error))
        raise


def assert_same_outputs(a: Path, b: Path, feeds: dict[str, np.ndarray], atol: float) -> None:
    """Both models give outputs of the same names and, to ``atol``, the same values."""
    expected = Session(a, threads=1).run(feeds)
    found = Session(b, threads=1).run(feeds)
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=atol, err_msg=name)


def assert_converted_like(path: Path, authored: Path, folder: Path) -> Path:
    """Both are converted without a rollback, to as many low-bit operators; the former's file."""
    paths, counts = [], []
    for source in (path, authored):
        paths.append(folder / f"{source.stem}.w8a8.onnx")
        made = bitfold.convert(source, paths[-1], preset="w8a8")
        assert made.report.rolled_back == []
        counts.append(low_bit_operators(made.model))
    assert counts[0]
    assert counts[0] == counts[1]
    return paths[0]


def low_bit_operators(model: ir.Model) -> dict[str, int]:
    """How many of each low-bit operator a model has."""
    names = [node.op_type for node in model.graph.all_nodes()]
    return {name: names.count(name) for name in set(names) if name.startswith("LowBit")}
