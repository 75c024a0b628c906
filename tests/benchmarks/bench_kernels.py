"""Time the kernels in ORT against this machine's limits and ORT's own kernels, in one run.

Run from the repository's root::

    PYTHONPATH=tests python tests/benchmarks/bench_kernels.py [--threads 1] [--json out.json]

Every result is checked against the oracle before it is timed.  Times are medians.  Weights are
cold at M=1 (the model repeats its node until the weights exceed the caches), as in decoding
with a model that is larger than them.  The read bandwidth and the int8 peak are measured beside
each row, by as many threads; percentages refer to the best so far.  A C++ compiler builds the
probe that measures them.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from support.lowbit_nodes import Case, matmul_model, session

from bitfold.runtime.op_library import isa

PROBE = Path(__file__).resolve().parents[2] / "runtime" / "cpp" / "probe" / "machine_probe.cc"

SHAPES = [
    (960, 576, "none"),
    (576, 576, "none"),
    (3072, 576, "swiglu"),
    (576, 1536, "none"),
    (49152, 576, "none"),
    (4096, 4096, "none"),
]
"""N, K, activation: SmolLM2's sites and a larger one."""

FORMATS = [(2, 64, False), (3, 64, False), (4, 32, False), (4, 32, True), (4, 64, True)]
FORMATS += [(8, 64, False)]
"""Bits, group size, zero points."""

CACHES = 128 << 20
"""Bytes of weights that no cache holds, read one after the other."""


class Machine:
    """Measures the machine's limits whenever asked and remembers the best of them."""

    def __init__(self, threads: int) -> None:
        compiler = shutil.which(os.environ.get("CXX", "c++"))
        if compiler is None:
            raise SystemExit("a C++ compiler is needed for the probe: set CXX")
        with tempfile.TemporaryDirectory() as folder:
            built = Path(folder) / "probe.so"
            flags = ["-O3", "-std=c++17", "-march=native", "-shared", "-fPIC"]
            subprocess.run([compiler, *flags, str(PROBE), "-o", str(built)], check=True)
            self._probe = ctypes.CDLL(str(built))
        self._probe.probe_int8.restype = ctypes.c_double
        self._probe.probe_read.restype = ctypes.c_double
        self._probe.probe_read.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self._threads = threads
        self._memory = np.ones(256 << 20, np.uint8)
        self.gops = self.gbps = 0.0

    def measure(self) -> None:
        """Measure once more."""
        part = self._memory.size // self._threads
        base = self._memory.ctypes.data

        def read(index: int) -> float:
            return float(self._probe.probe_read(base + index * part, part))

        def multiply(_: int) -> float:
            return float(self._probe.probe_int8())

        for _ in range(3):
            self.gbps = max(self.gbps, self._rate(read))
            self.gops = max(self.gops, self._rate(multiply))

    def _rate(self, work: Callable[[int], float]) -> float:
        """All threads' work over the time from the first start to the last end, in 1e9/s.

        Adding each thread's own rate would overstate it whenever they did not overlap.
        """
        ready = Barrier(self._threads)

        def timed_work(index: int) -> tuple[float, float, float]:
            ready.wait()
            begin = time.perf_counter()
            amount = work(index)
            return begin, time.perf_counter(), amount

        with ThreadPoolExecutor(self._threads) as pool:
            begins, ends, amounts = zip(*pool.map(timed_work, range(self._threads)), strict=True)
        return float(sum(amounts) / (max(ends) - min(begins)) * 1e-9)


def repeated(model: onnx.ModelProto, copies: int) -> onnx.ModelProto:
    """``copies`` times the one node of a model, each with weights and an output of its own.

    No two weights are equal: ORT would share them.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = model.graph
    for copy in range(1, copies):
        for tensor in graph.initializer:
            rolled = np.roll(numpy_helper.to_array(tensor).reshape(-1), copy).reshape(tensor.dims)
            result.graph.initializer.append(numpy_helper.from_array(rolled, f"{tensor.name}{copy}"))
        node = result.graph.node.add()
        node.CopyFrom(graph.node[0])
        node.name = f"node{copy}"
        node.output[0] = f"Y{copy}"
        own = {tensor.name for tensor in graph.initializer}
        for index, name in enumerate(node.input):
            node.input[index] = f"{name}{copy}" if name in own else name
        result.graph.output.add().CopyFrom(graph.output[0])
        result.graph.output[-1].name = f"Y{copy}"
    return result


def timed(
    model: onnx.ModelProto, x: np.ndarray, size: int, options: argparse.Namespace
) -> tuple[np.ndarray, float]:
    """Output and median seconds; with one row, over copies that no cache holds together."""
    copies = math.ceil(CACHES / size) if len(x) == 1 else 1
    opened = session(repeated(model, copies), options.threads)
    bound = opened.io_binding()
    bound.bind_ortvalue_input("X", ort.OrtValue.ortvalue_from_numpy(x))
    for output in opened.get_outputs():
        bound.bind_output(output.name)
    opened.run_with_iobinding(bound)
    times: list[float] = []
    start = time.perf_counter()
    while time.perf_counter() - start < options.seconds or len(times) < 5:
        begin = time.perf_counter()
        opened.run_with_iobinding(bound)
        times.append(time.perf_counter() - begin)
    y = np.asarray(bound.copy_outputs_to_cpu()[0])
    return y, statistics.median(times) / copies


def peer_model(op: str, domain: str, weights: dict[str, np.ndarray], **attributes: Any) -> Any:
    """A model of one of ORT's own ops on X."""
    node = helper.make_node(op, ["X", *weights], ["Y"], domain=domain, **attributes)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "XY"]
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph([node], "g", values[:1], values[1:], initializers)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def float_peer(n: int, k: int) -> tuple[onnx.ModelProto, np.ndarray]:
    """ORT's f32 MatMul, and its weight [N, K]."""
    weight = np.random.default_rng(0).standard_normal((k, n), np.float32)
    return peer_model("MatMul", "", {"w": weight}), weight.T


def nbits_peer(n: int, k: int, block: int) -> tuple[onnx.ModelProto, np.ndarray]:
    """ORT's symmetric 4-bit MatMulNBits with int8 activations, and its weight [N, K]."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (n, k // block, block)).astype(np.uint8)
    scales = rng.uniform(0.005, 0.02, (n, k // block)).astype(np.float32)
    packed = codes[..., 0::2] | codes[..., 1::2] << 4
    weights = {"b": packed, "scales": scales.reshape(-1)}
    sizes = {"N": n, "K": k, "bits": 4, "block_size": block, "accuracy_level": 4}
    model = peer_model("MatMulNBits", "com.microsoft", weights, **sizes)
    return model, ((codes.astype(np.float32) - 8) * scales[..., None]).reshape(n, k)


def check(name: str, y: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Stop when a result that is to be timed is wrong: error relative to the largest output."""
    error = np.abs(y - expected).max() / np.abs(expected).max()
    if not error <= tolerance:
        raise SystemExit(f"{name}: error {error:.3g}, tolerance {tolerance:.3g}")


def bench_shape(
    shape: tuple[int, int, str], m: int, machine: Machine, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Rows of the table for one shape and number of rows: peers first, then every format."""
    n, k, activation = shape
    x = np.random.default_rng(m).standard_normal((m, k), np.float32)
    results: list[dict[str, Any]] = []

    def add(name: str, seconds: float, size: int) -> None:
        machine.measure()
        results.append(
            {
                "kernel": name,
                "N": n,
                "K": k,
                "M": m,
                "activation": activation,
                "us": seconds * 1e6,
                "GB/s": size / seconds * 1e-9,
                "GOPS": 2 * m * n * k / seconds * 1e-9,
            }
        )

    if not options.no_peers:
        model, weight = float_peer(n, k)
        y, seconds = timed(model, x, 4 * n * k, options)
        check("MatMul f32", y, x @ weight.T, 1e-4)
        add("ORT f32", seconds, 4 * n * k)
        model, weight = nbits_peer(n, k, 32)
        size = n * k // 2 + n * k // 32 * 4
        y, seconds = timed(model, x, size, options)
        check("MatMulNBits", y, x @ weight.T, 0.05)
        add("ORT 4b g32 level 4", seconds, size)
    for bits, group, zero_points in FORMATS:
        case = Case(
            n, k, bits, group, act_group=group, activation=activation, zero_points=zero_points
        )
        weights = case.weights()
        size = sum(array.nbytes for array in weights.values())
        model = matmul_model(case.attributes(), weights)
        y, seconds = timed(model, x, size, options)
        check(str(case), y[:8], case.expected(x[:8], weights), 3e-6)
        add(f"bitfold {bits}b g{group}{' asym' if zero_points else ''}", seconds, size)
    return results


def main() -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 8, 128, 512])
    parser.add_argument("--shapes", type=int, nargs="*", default=list(range(len(SHAPES))))
    parser.add_argument("--seconds", type=float, default=0.2, help="for each measurement")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    machine = Machine(options.threads)
    machine.measure()
    print(
        f"{platform.processor() or platform.machine()}, ISA {isa()}, ORT {ort.__version__}, ",
        end="",
    )
    print(f"{options.threads} thread(s)")
    print(f"{'N x K':>14} {'M':>4}  {'kernel':20} {'us':>10} {'GB/s':>6} {'GOPS':>6}")
    results: list[dict[str, Any]] = []
    for index in options.shapes:
        for m in options.rows:
            for row in bench_shape(SHAPES[index], m, machine, options):
                shape = f"{row['N']} x {row['K']}{'*' if row['activation'] == 'swiglu' else ''}"
                print(
                    f"{shape:>14} {m:>4}  {row['kernel']:20} {row['us']:10.1f} "
                    f"{row['GB/s']:6.1f} {row['GOPS']:6.0f}  "
                    f"{100 * row['GB/s'] / machine.gbps:4.0f}% of read, "
                    f"{100 * row['GOPS'] / machine.gops:4.0f}% of int8",
                    flush=True,
                )
                results.append(row)
    print(f"limits: read {machine.gbps:.1f} GB/s, int8 {machine.gops:.0f} GOPS; * with SwiGLU")
    if options.json:
        limits = {"read GB/s": machine.gbps, "int8 GOPS": machine.gops}
        facts = {"isa": isa(), "ort": ort.__version__, "threads": options.threads, **limits}
        options.json.write_text(json.dumps({"machine": facts, "results": results}, indent=1))


if __name__ == "__main__":
    main()
