"""``LowBitMatMul`` on a random weight of any format."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
from onnx import helper, numpy_helper
from support.hadamard_nodes import base_of
from support.lowbit_nodes import Case, matmul_model

from bitfold.runtime.formats import Format
from bitfold.runtime.layouts.tiles import pack_codes, tile_groups

from .subject import Subject

TOLERANCE = 3e-6
TOLERANCE_OF_BRANCHES = 1e-5
TOLERANCE_OF_TRANSFORMS = 1e-3
"""Sums in another order round a few activations to the next code."""


def lowbit_matmul(
    number: Format,
    group: int,
    k: int,
    n: int,
    checked: np.ndarray,
    acts: str = "int8",
    rank: int = 0,
    apart: bool = False,
    hadamard: int = 0,
    per: str = "group",
) -> Subject:
    """Activations rounded on the way, f16 scales, no zero points.

    Formats whose levels are no integers have float activations.

    Args:
        number: the weight's format.
        group: input channels that share a scale; K for one scale a row.
        checked: all rows of X whose outputs will be asked for: the oracle is slow to start.
        rank: of a low-rank branch of halves; 0 for none.
        apart: the branch is floats and nodes of its own: two MatMuls and an Add.
        hadamard: size of the transform of activations; 0 for none.
        per: what has an activation scale of its own, a ``group`` of the weight's or a ``token``.
    """
    rng = np.random.default_rng(0)
    levels = np.asarray(number.levels, np.float32)
    codes = number.encode(levels[rng.integers(0, len(levels), (n, k), np.uint8)])
    scales = rng.uniform(0.005, 0.02, (n, -(-k // group))).astype(np.float16)
    inputs = {"packed": pack_codes(codes, number.bits), "scales": tile_groups(scales)}
    table = number.table()
    if table is not None:
        inputs["table"] = table
    acts = acts if number.integral else "none"
    case = Case(
        n,
        k,
        number.bits,
        group,
        acts,
        act_group=k if per == "token" else group,
        table=table is not None,
        hadamard=hadamard,
    )
    if hadamard and (base := base_of(hadamard)) is not None:
        inputs["hadamard"] = base

    @cache
    def answers() -> dict[bytes, np.ndarray]:
        rows = case.expected(checked, inputs)
        return {row.tobytes(): y for row, y in zip(checked, rows, strict=True)}

    def expected(x: np.ndarray) -> np.ndarray:
        return np.stack([answers()[row.tobytes()] for row in x])

    branch = {}
    if rank:
        factors = {"low_rank_down": (rank, k), "low_rank_up": (n, rank)}
        branch = {
            name: (rng.standard_normal(shape) / 16).astype(np.float16)
            for name, shape in factors.items()
        }
    size = sum(array.nbytes * (1 + apart) for array in branch.values())
    size += sum(array.nbytes for array in inputs.values())
    model = matmul_model(case.attributes(), inputs if apart else {**inputs, **branch})
    if apart:
        _add_branch(model, *branch.values())
    inputs |= branch
    name = number.name if acts in ("int8", "none") else f"{number.name} x {acts}"
    label = ("row" if group == k else f"g{group}") + (f" R{rank}" if rank else "")
    label += f" H{hadamard}" if hadamard else ""
    label += " token" if per == "token" and group < k else ""
    tolerance = TOLERANCE_OF_BRANCHES if rank else TOLERANCE
    tolerance = TOLERANCE_OF_TRANSFORMS if hadamard else tolerance
    return Subject(f"{name} {label}", model, n * k, size, expected, tolerance)


def _add_branch(model: onnx.ModelProto, down: np.ndarray, up: np.ndarray) -> None:
    """Y becomes what the one node makes, plus X times both factors."""
    graph = model.graph
    graph.node[0].output[0] = "product"
    for name, factor in {"D": down, "U": up}.items():
        floats = np.ascontiguousarray(factor.T.astype(np.float32))
        graph.initializer.append(numpy_helper.from_array(floats, name))
    for op, given, made in (
        ("MatMul", ["X", "D"], "thin"),
        ("MatMul", ["thin", "U"], "branch"),
        ("Add", ["product", "branch"], "Y"),
    ):
        graph.node.append(helper.make_node(op, given, [made], made))
