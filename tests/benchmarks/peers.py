"""Other tools' weight quantizers for ONNX, each run in a process of its own, by a common name.

None of them is needed: a tool that is not installed, or cannot do what is asked, is a row that says
why.  Run as a program, it quantizes one model: see :func:`peer_made`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

Feeds = dict[str, np.ndarray]
Quantizer = Callable[[onnx.ModelProto, list[Feeds]], onnx.ModelProto]

GROUP = 32
OPSET = 21
"""The first one with blocks of 4-bit weights, which two of the tools write."""


@dataclass(frozen=True)
class Stored:
    """What the low-bit weights of matmuls in a file take, scales and zero points included."""

    nbytes: int
    weights: int

    @property
    def bits(self) -> float:
        """A weight."""
        return 8 * self.nbytes / max(self.weights, 1)


def ort_rtn(bits: int, symmetric: bool) -> Quantizer:
    """ONNX Runtime's own rounding to nearest."""

    def run(model: onnx.ModelProto, feeds: list[Feeds]) -> onnx.ModelProto:
        from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig

        return _by_ort(
            model,
            DefaultWeightOnlyQuantConfig(block_size=GROUP, is_symmetric=symmetric, bits=bits),
        )

    return run


def ort_hqq(bits: int) -> Quantizer:
    """ONNX Runtime's HQQ; needs torch."""

    def run(model: onnx.ModelProto, feeds: list[Feeds]) -> onnx.ModelProto:
        import torch  # noqa: F401  # otherwise missed in the middle of the work
        from onnxruntime.quantization.matmul_nbits_quantizer import HQQWeightOnlyQuantConfig

        return _by_ort(model, HQQWeightOnlyQuantConfig(block_size=GROUP, bits=bits))

    return run


def ort_k_quant(model: onnx.ModelProto, feeds: list[Feeds]) -> onnx.ModelProto:
    """ONNX Runtime's k-quant: scales and zero points searched for the least weighted error."""
    from onnxruntime.quantization.matmul_nbits_quantizer import KQuantWeightOnlyQuantConfig

    return _by_ort(model, KQuantWeightOnlyQuantConfig())


def ort_gptq(model: onnx.ModelProto, feeds: list[Feeds]) -> onnx.ModelProto:
    """ONNX Runtime's GPTQ."""
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.matmul_nbits_quantizer import GPTQWeightOnlyQuantConfig

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(feeds)

        def __iter__(self) -> Any:
            return iter(feeds)

        def __deepcopy__(self, memo: Any) -> Any:
            return Reader()

        def get_next(self) -> Feeds | None:
            return next(self.left, None)

    return _by_ort(model, GPTQWeightOnlyQuantConfig(Reader(), block_size=GROUP, perchannel=False))


def nncf_weights(mode: str, informed: bool) -> Quantizer:
    """NNCF's weight compression; ``informed``: with AWQ and scale estimation."""

    def run(model: onnx.ModelProto, feeds: list[Feeds]) -> onnx.ModelProto:
        import nncf

        more: dict[str, Any] = {}
        if informed:
            more = {"dataset": nncf.Dataset(feeds), "awq": True, "scale_estimation": True}
        found: onnx.ModelProto = nncf.compress_weights(
            model,
            mode=nncf.CompressWeightsMode(mode),
            group_size=GROUP,
            ratio=1.0,
            **more,
        )
        return found

    return run


def onnxsim_gptq(model: onnx.ModelProto, feeds: list[Feeds]) -> onnx.ModelProto:
    """onnxsim's GPTQ on its 4-bit weights."""
    import onnxsim

    plain = onnxsim.quantize_weight_only_int4(model)  # in groups of 32
    found: onnx.ModelProto = onnxsim.apply_gptq(model, plain, feeds)
    return found


PEERS: dict[str, tuple[int, Quantizer]] = {
    "ORT rtn, symmetric": (4, ort_rtn(4, True)),
    "ORT rtn": (4, ort_rtn(4, False)),
    "ORT HQQ": (4, ort_hqq(4)),
    "ORT k-quant": (4, ort_k_quant),
    "ORT GPTQ": (4, ort_gptq),
    "NNCF int4_asym": (4, nncf_weights("int4_asym", False)),
    "NNCF int4_asym, AWQ + scales": (4, nncf_weights("int4_asym", True)),
    "NNCF int4_sym, AWQ + scales": (4, nncf_weights("int4_sym", True)),
    "onnxsim GPTQ": (4, onnxsim_gptq),
    "NNCF int3_sym, AWQ + scales": (3, nncf_weights("int3_sym", True)),
    "ORT rtn, symmetric, 2 bits": (2, ort_rtn(2, True)),
    "ORT rtn, 2 bits": (2, ort_rtn(2, False)),
    "ORT HQQ, 2 bits": (2, ort_hqq(2)),
    "NNCF int2_sym, AWQ + scales": (2, nncf_weights("int2_sym", True)),
}
"""Bits, and what quantizes a model to them; statistics are taken from the given inputs."""


def peer_made(
    name: str, model: Path, file: Path, feeds: Sequence[Feeds], seconds: float
) -> tuple[float, str]:
    """Have a peer quantize ``model`` into ``file``.

    Args:
        name: a key of ``PEERS``.
        seconds: it is stopped when it has worked this long.

    Returns:
        The seconds that its own call took, and an empty string; or why there is no file.
    """
    with tempfile.TemporaryDirectory(prefix="bitfold-bench-") as folder:
        for index, each in enumerate(feeds):
            np.savez(Path(folder) / f"{index:04}.npz", **each)  # type: ignore[arg-type]
        command = [sys.executable, __file__, name, str(model), str(file), folder]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            return seconds, f"stopped after {seconds:.0f} s"
    if done.returncode:
        return 0.0, (done.stderr.strip().splitlines() or ["it failed"])[-1][:120]
    return float(done.stdout.split()[-1]), ""


def stored_weights(file: Path) -> Stored:
    """What the low-bit weights of a peer's matmuls take; tables that are looked up do not count."""
    model = onnx.load(file)
    arrays = {each.name: each for each in model.graph.initializer}
    looked_up = {
        name for node in model.graph.node if "Gather" in node.op_type for name in node.input
    }
    nbytes = weights = 0
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            sizes = {each.name: each.i for each in node.attribute}
            weights += sizes["N"] * sizes["K"]
        elif node.op_type == "DequantizeLinear" and node.output[0] not in looked_up:
            if node.input[0] not in arrays:
                continue
            weights += int(np.prod(arrays[node.input[0]].dims))
        else:
            continue
        first = 1 if node.op_type == "MatMulNBits" else 0
        nbytes += sum(_nbytes(arrays[name]) for name in node.input[first:] if name in arrays)
    return Stored(nbytes, weights)


def _nbytes(tensor: onnx.TensorProto) -> int:
    """Bytes of an initializer, packed as files have it."""
    narrow = {onnx.TensorProto.INT4: 4, onnx.TensorProto.UINT4: 4}
    narrow |= {
        getattr(onnx.TensorProto, name): 2
        for name in ("INT2", "UINT2")
        if hasattr(onnx.TensorProto, name)
    }
    count = int(np.prod(tensor.dims))
    if tensor.data_type in narrow:
        return -(-count * narrow[tensor.data_type] // 8)
    return count * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _by_ort(model: onnx.ModelProto, config: Any) -> onnx.ModelProto:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    symmetric = bool(getattr(config, "is_symmetric", False))
    maker = MatMulNBitsQuantizer(
        model, block_size=GROUP, is_symmetric=symmetric, algo_config=config
    )
    maker.process()
    found: onnx.ModelProto = maker.model.model
    return found


def main(arguments: Sequence[str]) -> None:
    """Quantize one model; the last word printed is how many seconds it took."""
    import time

    name, source, file, folder = arguments
    feeds = [dict(np.load(each)) for each in sorted(Path(folder).glob("*.npz"))]
    model = onnx.load(source)
    if model.opset_import[0].version < OPSET:
        model = onnx.version_converter.convert_version(model, OPSET)
    start = time.perf_counter()
    made = PEERS[name][1](model, feeds)
    seconds = time.perf_counter() - start
    if all(each.domain != "com.microsoft" for each in made.opset_import):
        made.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))  # some forget it
    onnx.save(made, file, save_as_external_data=True, location=Path(file).name + ".data")
    print()
    print(seconds)  # a tool may have left a line of its own open


if __name__ == "__main__":
    main(sys.argv[1:])
