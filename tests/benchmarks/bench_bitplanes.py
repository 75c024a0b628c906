"""Time activations of few bits against int8 ones of the same kernels, in one run.

Run from the repository's root::

    PYTHONPATH=tests python tests/benchmarks/bench_bitplanes.py [--threads 1] [--json out.json]

Every result is checked against the oracle before it is timed.  Each case and the int8 case of the
same shape and group take turns; times are medians.  Weights are cold at M=1: the model repeats its
node until the weights exceed the caches.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from support.lowbit_nodes import Case, matmul_model, session

from bitfold.runtime.op_library import isa

WIDTHS = [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1), (2, 3), (2, 4), (4, 4)]
"""Bits of the weights and of the activations."""

CACHES = 128 << 20
"""Bytes of weights that no cache holds, read one after the other."""

BINARY = np.array([-1, 1], np.int8)


def inputs_of(case: Case) -> dict[str, np.ndarray]:
    """The case's inputs; weights of one bit stand for -1 and 1."""
    inputs = case.weights()
    return {**inputs, "table": BINARY} if case.bits == 1 else inputs


def repeated(model: onnx.ModelProto, copies: int) -> onnx.ModelProto:
    """``copies`` times the one node, each with weights of its own."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    own = {tensor.name for tensor in model.graph.initializer}
    for copy in range(1, copies):
        for tensor in model.graph.initializer:
            rolled = np.roll(numpy_helper.to_array(tensor).reshape(-1), copy)
            if tensor.name == "table":
                rolled = numpy_helper.to_array(tensor)
            shaped = rolled.reshape(tensor.dims)
            result.graph.initializer.append(numpy_helper.from_array(shaped, f"{tensor.name}{copy}"))
        node = result.graph.node.add()
        node.CopyFrom(model.graph.node[0])
        node.name, node.output[0] = f"node{copy}", f"Y{copy}"
        for index, name in enumerate(node.input):
            node.input[index] = f"{name}{copy}" if name in own else name
        result.graph.output.add().CopyFrom(model.graph.output[0])
        result.graph.output[-1].name = f"Y{copy}"
    return result


def prepared(case: Case, m: int, threads: int) -> tuple[Callable[[], float], int]:
    """A function that runs the case once and returns seconds, after a check; bytes of weights.

    Raises:
        SystemExit: the result is wrong.
    """
    inputs = inputs_of(case)
    size = sum(array.nbytes for array in inputs.values())
    copies = math.ceil(CACHES / size) if m == 1 else 1
    opened = session(repeated(matmul_model(case.attributes(), inputs), copies), threads)
    x = case.rows(m)
    bound = opened.io_binding()
    bound.bind_ortvalue_input("X", ort.OrtValue.ortvalue_from_numpy(x))
    for output in opened.get_outputs():
        bound.bind_output(output.name)
    opened.run_with_iobinding(bound)
    y, expected = np.asarray(bound.copy_outputs_to_cpu()[0])[:4], case.expected(x[:4], inputs)
    error = np.abs(y - expected).max() / np.abs(expected).max()
    if not error <= 3e-6:
        raise SystemExit(f"{case} M={m}: error {error:.3g}")

    def once() -> float:
        begin = time.perf_counter()
        opened.run_with_iobinding(bound)
        return (time.perf_counter() - begin) / copies

    return once, size


def bench(case: Case, m: int, options: argparse.Namespace) -> dict[str, float | int | str]:
    """Medians of the case and of int8 activations with 8-bit weights, and with the same weights."""
    rivals = [case, replace(case, acts="int8"), replace(case, acts="int8", bits=8)]
    runs = [prepared(each, m, options.threads) for each in rivals]
    times: list[list[float]] = [[] for _ in runs]
    start = time.perf_counter()
    while time.perf_counter() - start < options.seconds or len(times[0]) < 5:
        for found, (once, _) in zip(times, runs, strict=True):
            found.append(once())
    own, same, eight = (statistics.median(found) for found in times)
    return {
        "weights": case.bits,
        "acts": case.acts,
        "group": case.group,
        "N": case.n,
        "K": case.k,
        "M": m,
        "us": own * 1e6,
        "GOPS": 2e-9 * m * case.n * case.k / own,
        "GB/s": runs[0][1] / own * 1e-9,
        "int8 acts, same weights": same / own,
        "int8 acts, 8-bit weights": eight / own,
        "int8 GOPS": 2e-9 * m * case.n * case.k / eight,
    }


def main() -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 8, 128])
    parser.add_argument("--groups", type=int, nargs="*", default=[128, 0], help="0: a whole row")
    parser.add_argument("--shape", type=int, nargs=2, default=[4096, 4096], help="N and K")
    parser.add_argument("--widths", nargs="*", help="weight and activation bits, such as 1x1")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each row of the table")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    widths = WIDTHS
    if options.widths:
        widths = [(int(w), int(a)) for w, a in (each.split("x") for each in options.widths)]

    n, k = options.shape
    print(f"ISA {isa()}, ORT {ort.__version__}, {options.threads} thread(s), {n} x {k}")
    print(f"{'weights x acts':>14} {'group':>6} {'M':>4} {'us':>9} {'GOPS':>6} {'GB/s':>6}", end="")
    print("   times as fast as int8 acts with the same, with 8-bit weights (their GOPS)")
    results = []
    for m in options.rows:
        for group in options.groups:
            for bits, acts in widths:
                case = Case(n, k, bits, group, f"int{acts}", group)
                row = bench(case, m, options)
                print(
                    f"{bits:>12}x{acts} {group or 'row':>6} {m:>4} {row['us']:9.1f} "
                    f"{row['GOPS']:6.0f} {row['GB/s']:6.1f}   "
                    f"{row['int8 acts, same weights']:5.2f} {row['int8 acts, 8-bit weights']:5.2f}"
                    f" ({row['int8 GOPS']:.0f})",
                    flush=True,
                )
                results.append(row)
    if options.json:
        facts = {"isa": isa(), "ort": ort.__version__, "threads": options.threads}
        options.json.write_text(json.dumps({"machine": facts, "results": results}, indent=1))


if __name__ == "__main__":
    main()
