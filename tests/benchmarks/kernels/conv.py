"""LowBitConv beside ORT's float Conv: see ``bench_conv.py``."""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from support.conv_nodes import ConvCase, conv_model

from bitfold.runtime.op_library import isa, op_library_path
from bitfold.runtime.reference.lowbit_conv import weight_of

TOLERANCE = 5e-6
"""Largest error that is taken, relative to the largest output."""


def pointwise(c: int, n: int, size: int) -> tuple[str, ConvCase, tuple[int, ...]]:
    """A 1x1 convolution with ReLU6."""
    case = ConvCase(n, c, (1, 1), 8, bias=True, activation="clip")
    return f"1x1 {c}->{n} @{size}", case, (size, size)


def depthwise(c: int, k: int, stride: int, *size: int) -> tuple[str, ConvCase, tuple[int, ...]]:
    """A depthwise convolution with ReLU6; a stride of 2 is along the height alone where the image
    is no square."""
    case = ConvCase(
        c,
        c,
        (k, k),
        8,
        groups=c,
        strides=(stride, stride if len(size) == 1 else 1),
        pads=(k // 2,) * 4,
        acts="none",
        bias=True,
        activation="clip",
    )
    return f"dw{k} s{stride} {c} @{'x'.join(map(str, size))}", case, (size * 2)[:2]


def dense(c: int, n: int, size: tuple[int, ...], k: int = 3, stride: int = 1) -> Any:
    """A k x k (or k) convolution."""
    rank = len(size)
    case = ConvCase(
        n, c, (k,) * rank, 8, strides=(stride,) * rank, pads=(k // 2,) * (2 * rank), bias=True
    )
    return f"{k}{f'x{k}' * (rank - 1)} s{stride} {c}->{n} @{'x'.join(map(str, size))}", case, size


CASES = [
    dense(3, 32, (224, 224), stride=2),
    pointwise(32, 16, 112),
    pointwise(16, 96, 112),
    pointwise(96, 24, 56),
    pointwise(24, 144, 56),
    pointwise(40, 240, 28),
    pointwise(240, 40, 28),
    pointwise(80, 480, 14),
    pointwise(112, 672, 14),
    pointwise(672, 112, 14),
    pointwise(1152, 192, 7),
    pointwise(320, 1280, 7),
    depthwise(32, 3, 1, 112),
    depthwise(96, 3, 2, 112),
    depthwise(144, 3, 1, 56),
    depthwise(144, 5, 2, 56),
    depthwise(240, 5, 1, 28),
    depthwise(240, 3, 2, 28),
    depthwise(480, 3, 1, 14),
    depthwise(480, 5, 1, 14),
    depthwise(672, 5, 2, 14),
    depthwise(1152, 5, 1, 7),
    depthwise(240, 5, 1, 6, 80),
    depthwise(240, 5, 2, 6, 80),
    dense(80, 384, (3000,)),
    dense(384, 384, (3000,), stride=2),
    dense(64, 64, (24, 160)),
    dense(128, 128, (12, 80)),
    dense(256, 256, (48, 48)),
]
"""EfficientNet-Lite0's stem and stages, Whisper's stem, 3x3 convolutions of text recognizers."""


def float_model(case: ConvCase, inputs: dict[str, np.ndarray]) -> onnx.ModelProto:
    """ORT's Conv on the same weight, with the same activation."""
    operator = case.operator
    layout = operator.layout
    weight = weight_of(
        layout,
        inputs["packed"],
        inputs["scales"],
        inputs.get("zero_points"),
        inputs.get("table"),
        case.bits,
    )
    kernel = weight.transpose(0, 2, 1).reshape(case.n, layout.cg, *case.kernel)
    weights = {"w": kernel.astype(np.float32), "b": inputs["bias"]}
    nodes = [
        helper.make_node(
            "Conv",
            ["X", "w", "b"],
            ["c"],
            group=case.groups,
            kernel_shape=operator.kernel_shape,
            strides=operator.strides,
            pads=operator.pads,
            dilations=operator.dilations,
        )
    ]
    if case.activation == "clip":
        least, most = np.asarray(case.clip, np.float32)
        weights |= {"least": np.asarray(least), "most": np.asarray(most)}
        nodes.append(helper.make_node("Clip", ["c", "least", "most"], ["Y"]))
    else:
        nodes[0].output[0] = "Y"
    x = helper.make_tensor_value_info(
        "X", TensorProto.FLOAT, ["n", case.c, *"hw"[: len(kernel.shape) - 2]]
    )
    y = helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)
    initializers = [numpy_helper.from_array(np.asarray(a), name) for name, a in weights.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], initializers)
    opsets = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


class Run:
    """A session with its input and output in place."""

    def __init__(self, model: onnx.ModelProto, x: np.ndarray, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.register_custom_ops_library(str(op_library_path()))
        self._session = ort.InferenceSession(model.SerializeToString(), options)
        self._bound = self._session.io_binding()
        self._bound.bind_ortvalue_input("X", ort.OrtValue.ortvalue_from_numpy(x))
        self._bound.bind_output("Y")
        self.times: list[float] = []

    def once(self) -> None:
        """Run and remember the time."""
        begin = time.perf_counter()
        self._session.run_with_iobinding(self._bound)
        self.times.append(time.perf_counter() - begin)

    def output(self) -> np.ndarray:
        """The last run's Y."""
        return np.asarray(self._bound.copy_outputs_to_cpu()[0])


def bench(case: ConvCase, size: tuple[int, ...], options: argparse.Namespace) -> dict[str, float]:
    """Microseconds of both, and what was multiplied."""
    x, inputs = case.image(options.images, *size), case.weights()
    ours = Run(conv_model(case.attributes(), inputs), x, options.threads)
    peer = Run(float_model(case, inputs), x, options.threads)
    ours.once()
    expected = case.expected(x, inputs)
    error = np.abs(ours.output() - expected).max() / np.abs(expected).max()
    if not error <= TOLERANCE:
        raise SystemExit(f"{case}: error {error:.3g}, tolerance {TOLERANCE:.3g}")
    start = time.perf_counter()
    while time.perf_counter() - start < options.seconds or len(peer.times) < 7:
        for run in (ours, peer):
            for _ in range(5):
                run.once()
    macs = expected.size * case.operator.layout.taps * case.operator.layout.cg
    return {
        "us": float(np.quantile(ours.times, 0.1)) * 1e6,
        "float us": float(np.quantile(peer.times, 0.1)) * 1e6,
        "macs": macs,
    }


def main() -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(
        "bench_conv.py", description="Time LowBitConv in ORT against ORT's own float Conv."
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--only", default="", help="part of a case's name")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each case")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    machine = platform.processor() or platform.machine()
    print(f"{machine}, ISA {isa()}, ORT {ort.__version__}, {options.threads} thread(s)")
    print(f"{'convolution':26} {'us':>9} {'GMAC/s':>7} {'float us':>9}  float/ours")
    results = []
    for name, case, size in CASES:
        if options.only not in name:
            continue
        found = bench(replace(case, bits=options.bits), size, options)
        ratio = found["float us"] / found["us"]
        print(
            f"{name:26} {found['us']:9.1f} {found['macs'] / found['us'] * 1e-3:7.1f} "
            f"{found['float us']:9.1f}  {ratio:5.2f}",
            flush=True,
        )
        results.append({"case": name, **found, "ratio": ratio})
    if options.json:
        facts = {"isa": isa(), "ort": ort.__version__, "threads": options.threads}
        options.json.write_text(json.dumps({"machine": facts, "results": results}, indent=1))


if __name__ == "__main__":
    main()
