"""Checks of the kernels of one ISA; each of ``CHECKS`` yields what it finds wrong.

``check_process`` runs one in a process of its own, since the ISA is chosen when the library loads.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper
from support.float_input_checks import FLOAT_INPUT_CHECKS
from support.guard_pages import BEHIND, guarded_copy
from support.hadamard_checks import HADAMARD_CHECKS
from support.input_scales_checks import INPUT_SCALES_CHECKS
from support.low_rank_checks import LOW_RANK_CHECKS
from support.lowbit_nodes import (
    Case,
    gather_attributes,
    gather_expected,
    gather_model,
    interleaved,
    matmul_model,
    matmul_session,
    session,
)
from support.prologue_checks import PROLOGUE_CHECKS

from bitfold.runtime.formats import FORMATS
from bitfold.runtime.formats.scale_types import DTYPES, scale_values
from bitfold.runtime.layouts.tiles import pack_codes, tile_groups

TOLERANCE = 3e-6
"""Largest error relative to the largest output: float32 rounding of a few dozen groups."""

SHAPES = [(1, 1, 0), (5, 3, 0), (16, 32, 32), (17, 33, 16), (33, 70, 32), (31, 100, 16)]
SHAPES += [(50, 200, 48), (20, 333, 0), (96, 576, 64), (48, 576, 32), (40, 300, 128), (64, 150, 64)]
ACTIVATIONS = ["none", "swiglu", "relu", "gelu", "gelu_tanh"]
ROWS = [1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 19, 31]


def cases(bits: int) -> Iterator[Case]:
    """Shapes and options for one width of codes; each option meets several shapes."""
    for index, (n, k, group) in enumerate(SHAPES):
        base = Case(n, k, bits, group, act_group=group, seed=index)
        yield base
        yield replace(base, zero_points=True, f16=False, act_group=0)
        yield replace(base, table=True, zero_points=index % 2 == 0, bias=True)
        yield replace(base, acts="none", zero_points=index % 2 == 1, table=index % 3 == 0)
        yield replace(base, n=2 * n, activation="swiglu", bias=True, zero_points=True)
        # Zero points so large that levels less them do not fit in a byte.
        yield replace(base, zero_points=True, zero_range=127, f16=False)


def mismatch(y: np.ndarray, expected: np.ndarray, least: float = 1e-3) -> str:
    """What is wrong with ``y``, or an empty string; its terms come to ``least`` at least."""
    if y.shape != expected.shape:
        return f"shape {y.shape}, expected {expected.shape}"
    if (np.isnan(y) != np.isnan(expected)).any():
        return "NaN where none is expected, or none where one is"
    error = np.nanmax(np.abs(y - expected), initial=0)
    limit = TOLERANCE * np.nanmax(np.abs(expected), initial=least)
    return f"error {error:.3g}, limit {limit:.3g}" if error > limit else ""


def every_format() -> Iterator[str]:
    """Every width, group, option and number of rows against the oracle."""
    for bits in range(1, 9):
        for case in cases(bits):
            inputs = case.weights()
            run = session(matmul_model(case.attributes(), inputs))
            x = case.rows(max(ROWS))
            expected = case.expected(x, inputs)
            for m in ROWS:
                wrong = mismatch(run.run(None, {"X": x[:m]})[0], expected[:m])
                if wrong:
                    yield f"{case} M={m}: {wrong}"


def number_formats() -> Iterator[str]:
    """Every number format, group size and kind of inputs, in each type of scales."""
    kinds = itertools.cycle(DTYPES)
    for number in FORMATS.values():
        for group in (16, 32, 64, 128, 256, 0):
            for acts in ("int8", "none") if number.integral else ("none",):
                case = Case(37, 272, number.bits, group, acts, group, scales=next(kinds))
                inputs = case.weights()
                values = number.highest * np.random.default_rng(group).standard_normal((37, 272))
                inputs["packed"] = pack_codes(number.encode(values.astype(np.float32)), case.bits)
                table = number.table()
                if table is not None:
                    inputs["table"] = table
                run = session(matmul_model(case.attributes(), inputs))
                x = case.rows(20)
                expected = case.expected(x, inputs)
                for m in (1, 3, 20):
                    wrong = mismatch(run.run(None, {"X": x[:m]})[0], expected[:m])
                    if wrong:
                        yield f"{number.name} {case} M={m}: {wrong}"


def float_tables() -> Iterator[str]:
    """Float levels of every width, with zero points, epilogues and several threads."""
    for bits in range(1, 9):
        for index, (n, k, group) in enumerate(SHAPES):
            base = Case(n, k, bits, group, "none", float_table=True, seed=index, f16=False)
            for case in (
                base,
                replace(base, zero_points=True, scales="bf16", bias=True, residual=True),
                replace(base, n=2 * n, activation="swiglu", zero_points=index % 2 == 0),
            ):
                inputs = case.weights()
                model = matmul_model(case.attributes(), inputs, residual=case.residual)
                runs = [session(model, count) for count in (1, 3)]
                for m in ROWS:
                    feeds = case.feeds(m)
                    expected = case.expected(feeds["X"], inputs, feeds.get("residual"))
                    y, other = (run.run(None, feeds)[0] for run in runs)
                    wrong = mismatch(y, expected)
                    if wrong:
                        yield f"{case} M={m}: {wrong}"
                    if y.tobytes() != other.tobytes():
                        yield f"{case} M={m}: bits depend on the number of threads"


def scale_codes() -> Iterator[str]:
    """Every finite scale of 8 bits, and many of 16, read as exactly what it stands for."""
    for kind, dtype in DTYPES.items():
        if kind == "f32":
            scales = np.geomspace(1e-40, 1e36, 999).astype(np.float32)
        else:
            bits = np.arange(1 << 8 * dtype.itemsize, dtype=f"u{dtype.itemsize}")
            scales = bits[: 255 if kind == "e8m0" else None].view(dtype)
            scales = scales[np.isfinite(scale_values(scales))]
        for acts, k in (("none", 1), ("int8", 16)):
            case = Case(len(scales), k, 8, acts=acts, scales=kind)
            inputs = case.weights()
            inputs["packed"] = pack_codes(np.full((case.n, k), 129, np.uint8), 8)
            inputs["scales"] = tile_groups(scales[:, None])
            x = np.zeros((1, k), np.float32)
            x[0, 0] = 127
            y = session(matmul_model(case.attributes(), inputs)).run(None, {"X": x})[0][0]
            with np.errstate(over="ignore"):
                expected = 127 * scale_values(scales, case.factor.get("scale_factor", 1))
            wrong = y != expected
            if wrong.any():
                yield f"{kind} {acts}: {wrong.sum()}, first {scales[wrong][0]}: {y[wrong][0]}"
            rows = np.arange(case.n)
            found = session(gather_model(gather_attributes(case), inputs)).run(
                None, {"indices": rows}
            )[0]
            if not np.array_equal(found, gather_expected(case, inputs, rows)):
                yield f"{kind}: rows looked up"


def odd_shapes() -> Iterator[str]:
    """Every N, K and M from 1 on, one at a time; batch dimensions; no rows at all."""
    for size in range(1, 40):
        for case in (Case(size, 64, 4, 32, act_group=32), Case(20, size, 3, zero_points=True)):
            run, x = matmul_session(case), case.rows(size)
            wrong = mismatch(run.run(None, {"X": x})[0], case.expected(x, case.weights()))
            if wrong:
                yield f"{case} M={size}: {wrong}"
    case = Case(24, 48, 4, 16, act_group=16)
    run, x = matmul_session(case), case.rows(6).reshape(2, 3, 48)
    if mismatch(run.run(None, {"X": x})[0], case.expected(x, case.weights())):
        yield "X [2, 3, K]"
    if run.run(None, {"X": np.zeros((2, 0, 48), np.float32)})[0].shape != (2, 0, 24):
        yield "X [2, 0, K]"


def epilogues() -> Iterator[str]:
    """Every activation, with and without a bias and a residual; Y cut into several outputs."""
    plain = Case(70, 96, 4, 32, act_group=32, zero_points=True)
    cases = [
        replace(plain, activation=activation, bias=bias, residual=residual)
        for activation in ACTIVATIONS
        for bias in (False, True)
        for residual in (False, True)
    ]
    cases += [
        replace(plain, activation=activation, acts=acts, bias=True, splits=splits)
        for activation, acts in (("none", "int8"), ("gelu", "none"))
        for splits in ((70,), (16, 54), (32, 16, 16, 6), (48, 22))
    ]
    cases.append(replace(plain, activation="swiglu", splits=(16, 19)))
    for case in cases:
        run, inputs = matmul_session(case), case.weights()
        for m in ROWS:
            feeds = case.feeds(m)
            expected = case.expected(feeds["X"], inputs, feeds.get("residual"))
            found = run.run(None, feeds)
            parts = np.split(expected, np.cumsum(case.splits[:-1]), axis=1)
            for y, part in zip(found, parts, strict=True):
                wrong = mismatch(y, part)
                if wrong:
                    yield f"{case} M={m}: {wrong}"


def broken_rows() -> Iterator[str]:
    """NaN and infinity spoil their own rows only; zeros, tiny and huge rows are right."""
    for acts, act_group, activation in (
        # SwiGLU multiplies two outputs: those of huge rows overflow.
        *(("int8", 0, activation) for activation in ACTIVATIONS if activation != "swiglu"),
        ("int8", 32, "none"),
        ("none", 0, "none"),
    ):
        case = Case(40, 100, 4, 32, acts, act_group, activation, zero_points=True)
        run, inputs = matmul_session(case), case.weights()
        for m in (1, 4, 20):
            x = case.rows(m)
            x[0, 99] = np.nan
            if m > 1:
                x[1, 40], x[2, 0], x[3] = np.inf, -np.inf, 0
            if m > 4:
                x[4] *= 1e-32
                x[5] *= 1e30
                x[6, :32] = 0
            wrong = mismatch(run.run(None, {"X": x})[0], case.expected(x, inputs))
            if wrong:
                yield f"{case} M={m}: {wrong}"
            scaled = x[4:5].astype(np.float32)
            if m > 4 and acts == "int8" and run.run(None, {"X": scaled})[0].any():
                yield f"{case}: rows below 1e-30 become zeros"


def long_rows() -> Iterator[str]:
    """More inputs, and rows, than are multiplied in one go; a scale for each group or row."""
    base = Case(40, 4700, 4, 32, zero_points=True)
    for case in (
        replace(base, act_group=32),
        replace(base, bias=True, residual=True),
        replace(base, act_group=32, rank=24, residual=True),
        replace(base, bits=3, rank=24, bias=True),
        replace(base, bits=8, group=0, activation="swiglu", n=64),
        replace(base, k=9000, group=128, acts="none", residual=True),
    ):
        inputs = case.weights()
        run = session(matmul_model(case.attributes(), inputs, residual=case.residual), 2)
        for m in (1, 6, 20, 200):
            feeds = case.feeds(m)
            expected = case.expected(feeds["X"], inputs, feeds.get("residual"))
            wrong = mismatch(run.run(None, feeds)[0], expected)
            if wrong:
                yield f"{case} M={m}: {wrong}"


def joined(outputs: list[np.ndarray]) -> bytes:
    """The bytes of all outputs."""
    return b"".join(each.tobytes() for each in outputs)


def threads() -> Iterator[str]:
    """The same bits for any number of threads, and from several callers at once."""
    for case in (
        Case(1000, 576, 4, 32, act_group=32, zero_points=True),
        Case(1024, 320, 3, 64, act_group=64, activation="swiglu", bias=True),
        Case(1024, 320, 4, 64, act_group=64, activation="gelu", splits=(512, 256, 256)),
        Case(500, 257, 8, acts="none"),
    ):
        runs = [matmul_session(case, count) for count in (1, 2, 3)]
        for m in (1, 7, 8, 100, 300):
            x = case.rows(m)
            first, *others = [joined(run.run(None, {"X": x})) for run in runs]
            if any(other != first for other in others):
                yield f"{case} M={m}: bits depend on the number of threads"
            shared = runs[1]

            def call(_: int, shared: ort.InferenceSession = shared, x: np.ndarray = x) -> bytes:
                return joined(shared.run(None, {"X": x}))

            with ThreadPoolExecutor(4) as pool:
                at_once = pool.map(call, range(8))
                if any(each != first for each in at_once):
                    yield f"{case} M={m}: concurrent calls disturb each other"


def guard_pages() -> Iterator[str]:
    """Inputs and output that end, or begin, at a page that must not be touched."""
    for bits in range(1, 9):
        for case in (
            Case(33, 70, bits, 32, act_group=32, zero_points=True, bias=True),
            Case(16, 35, bits, table=True, f16=False),
            Case(34, 100, bits, 48, acts="none", zero_points=True),
            Case(36, 64, bits, 16, act_group=16, activation="swiglu", zero_points=True),
            Case(37, 64, bits, 16, act_group=16, activation="gelu", residual=True),
            Case(33, 70, bits, 32, act_group=32, scales="e8m0"),
            Case(20, 41, bits, acts="none", scales="e8m0", float_table=True),
        ):
            inputs = case.weights()
            run = session(
                matmul_model(case.attributes(), inputs, constant=False, residual=case.residual)
            )
            for m in (1, 3, 9, 20):
                feeds = case.feeds(m)
                expected = case.expected(feeds["X"], inputs, feeds.get("residual"))
                for side in BEHIND:
                    fed = {k: guarded_copy(v, side) for k, v in {**feeds, **inputs}.items()}
                    y = guarded_copy(np.zeros(expected.shape, np.float32), side)
                    bound = run.io_binding()
                    for name, array in fed.items():
                        bound.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
                    bound.bind_ortvalue_output("Y", ort.OrtValue.ortvalue_from_numpy(y))
                    run.run_with_iobinding(bound)
                    wrong = mismatch(y, expected)
                    if wrong:
                        yield f"{case} M={m} {side}: {wrong}"


def gather() -> Iterator[str]:
    """``LowBitGather`` of every width, group and index type."""
    for bits in range(1, 9):
        for n, k, group in SHAPES:
            base = Case(n, k, bits, group)
            for case in (
                base,
                replace(base, zero_points=True, f16=False, table=bits % 2 == 0),
                replace(base, zero_points=True, scales="e4m3", float_table=bits % 2 == 0),
                replace(base, scales="e8m0" if bits % 2 else "bf16"),
            ):
                inputs = case.weights()
                for index_type, dtype in (
                    (TensorProto.INT64, np.int64),
                    (TensorProto.INT32, np.int32),
                ):
                    run = session(gather_model(gather_attributes(case), inputs, index_type), 2)
                    rng = np.random.default_rng(n)
                    for shape in ((), (1,), (0,), (3, 50)):
                        indices = rng.integers(-n, n, shape).astype(dtype)
                        y = run.run(None, {"indices": np.asarray(indices)})[0]
                        if not np.array_equal(y, gather_expected(case, inputs, indices)):
                            yield f"{case} indices {dtype.__name__} {shape}"


def gather_guard_pages() -> Iterator[str]:
    """Rows of ``LowBitGather`` and its inputs beside pages that must not be touched."""
    for bits in range(1, 9):
        for case in (
            Case(33, 70, bits, 32, zero_points=True),
            Case(16, 35, bits, table=True, f16=False),
            Case(20, 41, bits, scales="e8m0", float_table=True),
        ):
            inputs = case.weights()
            model = gather_model(gather_attributes(case), inputs, constant=False)
            # An output can be bound where ORT knows its rank.
            model.graph.input[0].CopyFrom(
                helper.make_tensor_value_info("indices", TensorProto.INT64, ["count"])
            )
            run = session(model)
            indices = np.arange(case.n)[::-1].copy()
            expected = gather_expected(case, inputs, indices)
            for side in BEHIND:
                y = guarded_copy(np.zeros(expected.shape, np.float32), side)
                bound = run.io_binding()
                fed = {"indices": indices, **inputs}
                fed = {name: guarded_copy(array, side) for name, array in fed.items()}
                for name, array in fed.items():
                    bound.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
                bound.bind_ortvalue_output("Y", ort.OrtValue.ortvalue_from_numpy(y))
                run.run_with_iobinding(bound)
                if not np.array_equal(y, expected):
                    yield f"{case} {side}"


def few_bits(x: np.ndarray) -> np.ndarray:
    """Numbers of 20 bits as float32, which no kernel rounds before it multiplies them."""
    return (x.astype(np.float32).view(np.int32) & ~0xF).view(np.float32)


def silu() -> Iterator[str]:
    """``silu`` alone, through a gate that is X itself: within 4 units in the last place."""
    # Gate and up in groups of their own, so that neither is rounded beside the other.
    case = Case(2, 17, 8, 16, "none", activation="swiglu", f16=False)
    inputs = case.weights()
    codes = np.full((2, 17), 128, np.uint8)
    codes[0, 0] = codes[1, 16] = 129
    inputs["packed"] = pack_codes(interleaved(codes), 8)
    inputs["scales"][:] = 1
    gate = np.concatenate([np.linspace(-110, 110, 20001), np.geomspace(1e-30, 1e30, 2001)])
    x = np.zeros((len(gate), 17), np.float32)
    x[:, 0], x[:, 16] = few_bits(gate), 1
    y = session(matmul_model(case.attributes(), inputs)).run(None, {"X": x})[0][:, 0]
    wide = x[:, 0].astype(np.float64)
    with np.errstate(over="ignore"):
        expected = wide / (1 + np.exp(-wide))
    # Below -88 the answer leaves float32's normal range: exp(-x) overflows, and 0 will do.
    limit = 4 * np.spacing(np.abs(expected).astype(np.float32)) + 4e-37
    wrong = np.abs(y - expected) > limit
    if wrong.any():
        yield f"{wrong.sum()} of {len(y)}, first at {x[wrong][0, 0]}: {y[wrong][0]}"


def gelu() -> Iterator[str]:
    """``gelu`` and ``gelu_tanh`` of X itself, relative to each value: far below erf's digits."""
    for activation in ("gelu", "gelu_tanh"):
        case = Case(1, 1, 8, acts="none", activation=activation, f16=False)
        inputs = case.weights()
        inputs["packed"] = pack_codes(np.full((1, 1), 129, np.uint8), 8)
        inputs["scales"][:] = 1
        x = np.concatenate([np.linspace(-12, 40, 52001), np.geomspace(1e-30, 1e30, 2001)])
        x = few_bits(np.concatenate([x, -np.geomspace(1e-30, 1e30, 2001)]))[:, None]
        y = session(matmul_model(case.attributes(), inputs)).run(None, {"X": x})[0][:, 0]
        expected = case.expected(x, inputs)[:, 0]
        # exp(-x^2/2) and the like multiply the rounding of their argument.
        limit = (1e-6 + 2e-7 * np.minimum(x[:, 0] ** 2, 100)) * np.abs(expected) + 1e-36
        wrong = ~(np.abs(y - expected) <= limit)
        if wrong.any():
            first = np.flatnonzero(wrong)[0]
            yield f"{activation}: {wrong.sum()}, first at {x[first]}: {y[first]} {expected[first]}"


CHECKS: dict[str, Callable[[], Iterator[str]]] = {
    check.__name__: check
    for check in (
        every_format,
        number_formats,
        float_tables,
        scale_codes,
        odd_shapes,
        broken_rows,
        long_rows,
        threads,
        guard_pages,
        gather,
        gather_guard_pages,
        silu,
        epilogues,
        gelu,
        *HADAMARD_CHECKS,
        *PROLOGUE_CHECKS,
        *LOW_RANK_CHECKS,
        *INPUT_SCALES_CHECKS,
        *FLOAT_INPUT_CHECKS,
    )
}
