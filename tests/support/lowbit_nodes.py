"""Random nodes of bitfold's low-bit operators, as ONNX models, beside their oracles' answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from support.hadamard_nodes import base_of

from bitfold.runtime.formats.scale_types import DTYPES, store_scales
from bitfold.runtime.layouts.masked import MASKED_VERSION, pack_masked
from bitfold.runtime.layouts.tiles import LAYOUT_VERSION, TILE, pack_codes, tile_groups
from bitfold.runtime.op_library import op_library_path
from bitfold.runtime.reference.lowbit_gather import lowbit_gather
from bitfold.runtime.reference.lowbit_matmul import lowbit_matmul

FACTOR = float(np.float32(1 / 19000))
"""What ``e4m3`` scales are multiplied by."""

MATMUL_INPUTS = ("packed", "scales", "zero_points", "table", "bias")
LATER_INPUTS = (
    "norm_gain",
    "hadamard",
    "act_scale",
    "low_rank_down",
    "low_rank_up",
    "input_scales",
    "column_norms",
)
GATHER_INPUTS = ("packed", "scales", "zero_points", "table")


@dataclass(frozen=True)
class Case:
    """One configuration of ``LowBitMatMul``; ``group`` and ``act_group`` 0 stand for K.

    ``scales`` is their type; "" for what ``f16`` says.
    """

    n: int
    k: int
    bits: int
    group: int = 0
    acts: str = "int8"
    act_group: int = 0
    activation: str = "none"
    f16: bool = True
    zero_points: bool = False
    table: bool = False
    bias: bool = False
    seed: int = 0
    zero_range: int = 7
    residual: bool = False
    splits: tuple[int, ...] = ()
    scales: str = ""
    float_table: bool = False
    epsilon: float | None = None
    """Of the prologue's norm; None for no norm."""
    hadamard: int = 0
    """Size of the prologue's Hadamard transform; 0 for none."""
    static: bool = False
    """Whether there is one scale for all activations."""
    rank: int = 0
    """Of the low-rank branch; 0 for none."""
    half: bool = True
    """Whether the branch is of halves."""
    n_group: int = 0
    """Outputs that share input scales; 0 for none."""
    kept: float | None = None
    """Share of the weights that a masked layout keeps; None for the dense layout."""
    keep: float | None = None
    """Share of the columns that are not skipped; None for no column_norms."""

    @property
    def layout(self) -> int:
        """The packed bytes' layout."""
        return LAYOUT_VERSION if self.kept is None else MASKED_VERSION

    @property
    def group_size(self) -> int:
        """Input channels a group."""
        return self.group or self.k

    def attributes(self) -> dict[str, Any]:
        """The node's attributes."""
        return {
            "N": self.n,
            "K": self.k,
            "bits": self.bits,
            "group_size": self.group_size,
            "layout": self.layout,
            "acts": self.acts,
            "act_group_size": self.act_group or self.k,
            "activation": self.activation,
            **({"splits": list(self.splits)} if self.splits else {}),
            **self.factor,
            **({} if self.epsilon is None else {"epsilon": self.epsilon}),
            **({"hadamard_size": self.hadamard} if self.hadamard else {}),
            **({"n_group_size": self.n_group} if self.n_group else {}),
            **({} if self.keep is None else {"keep": self.keep}),
        }

    def weights(self) -> dict[str, np.ndarray]:
        """The node's inputs but X, random but for the seed."""
        rng = np.random.default_rng(self.seed)
        groups = -(-self.k // self.group_size)
        codes = rng.integers(0, 1 << self.bits, (self.n, self.k)).astype(np.uint8)
        scales = rng.uniform(0.005, 0.02, (self.n, groups))
        scales = stored(scales, self.scales or ("f16" if self.f16 else "f32"))
        zeros = rng.integers(-self.zero_range, self.zero_range + 1, scales.shape).astype(np.int8)
        if self.activation == "swiglu":
            codes, scales, zeros = (interleaved(each) for each in (codes, scales, zeros))
        inputs = {"packed": self.packed(codes), "scales": tile_groups(scales)}
        if self.zero_points:
            inputs["zero_points"] = tile_groups(zeros)
        if self.table:
            inputs["table"] = rng.integers(-128, 128, 1 << self.bits).astype(np.int8)
        if self.float_table:
            inputs["table"] = 5 * rng.standard_normal(1 << self.bits, np.float32)
            if self.kept is not None:
                inputs["table"][self.seed % (1 << self.bits)] = 0
        if self.bias:
            inputs["bias"] = rng.standard_normal(self.n).astype(np.float32)
        if self.epsilon is not None:
            inputs["norm_gain"] = rng.integers(-8, 9, self.k).astype(np.float32)
        if self.hadamard and base_of(self.hadamard) is not None:
            inputs["hadamard"] = base_of(self.hadamard)
        if self.static:
            inputs["act_scale"] = np.array([0.013], np.float32)
        if self.rank:
            kind = np.float16 if self.half else np.float32
            inputs["low_rank_down"] = rng.standard_normal((self.rank, self.k)).astype(kind)
            inputs["low_rank_up"] = (rng.standard_normal((self.n, self.rank)) / 8).astype(kind)
        if self.n_group:
            # Powers of two: rows that are exact stay so.
            blocks = -(-self.n // self.n_group)
            powers = rng.integers(-4, 5, (blocks, self.k)).astype(np.float32)
            inputs["input_scales"] = np.exp2(powers)
        if self.keep is not None:
            inputs["column_norms"] = rng.uniform(0, 2, self.k).astype(np.float32)
        return inputs

    def packed(self, codes: np.ndarray) -> np.ndarray:
        """Codes in the case's layout."""
        if self.kept is None:
            return pack_codes(codes, self.bits)
        return pack_masked(codes, self.kept_weights(codes.shape), self.bits)

    def kept_weights(self, shape: tuple[int, ...]) -> np.ndarray:
        """Which weights a masked layout keeps."""
        share = 1 if self.kept is None else self.kept
        return np.random.default_rng(self.seed).random(shape) < share

    def rows(self, m: int) -> np.ndarray:
        """X float32 [m, K]."""
        return np.random.default_rng(self.seed + m).standard_normal((m, self.k), np.float32)

    def feeds(self, m: int) -> dict[str, np.ndarray]:
        """X [m, K], and the residual [m, N] (N/2 with SwiGLU) where there is one."""
        feeds = {"X": self.rows(m)}
        if self.residual:
            columns = self.n // 2 if self.activation == "swiglu" else self.n
            rng = np.random.default_rng(self.seed + m + 1)
            feeds["residual"] = rng.standard_normal((m, columns), np.float32)
        return feeds

    def expected(
        self,
        x: np.ndarray,
        inputs: dict[str, np.ndarray],
        residual: np.ndarray | None = None,
    ) -> np.ndarray:
        """The oracle's Y, float64."""
        return lowbit_matmul(
            x,
            **inputs,
            residual=residual,
            n=self.n,
            k=self.k,
            bits=self.bits,
            group_size=self.group_size,
            layout=self.layout,
            acts=self.acts,
            act_group_size=self.act_group,
            activation=self.activation,
            **self.factor,
            epsilon=self.epsilon or 0.0,
            hadamard_size=self.hadamard,
            n_group_size=self.n_group,
            keep=1.0 if self.keep is None else self.keep,
        )

    @property
    def factor(self) -> dict[str, float]:
        """The attribute that ``e4m3`` scales have besides."""
        return {"scale_factor": FACTOR} if self.scales == "e4m3" else {}


def stored(scales: np.ndarray, kind: str) -> np.ndarray:
    """Scales of about 0.01 in a type, those of ``e4m3`` to be multiplied by ``FACTOR``."""
    if kind == "e4m3":
        scales = scales / FACTOR
    return scales.astype(DTYPES[kind]) if kind != "e8m0" else store_scales(scales, kind).array


def interleaved(rows: np.ndarray) -> np.ndarray:
    """Rows of gate and up [N, ...], as ``swiglu`` tiles them: [16 T, ...]."""
    half = len(rows) // 2
    tiles = -(-half // TILE)
    apart = np.zeros((2, tiles * TILE, *rows.shape[1:]), rows.dtype)
    apart[0, :half], apart[1, :half] = rows[:half], rows[half:]
    tiled = apart.reshape(2, tiles, TILE, *rows.shape[1:]).swapaxes(0, 1)
    return tiled.reshape(2 * tiles * TILE, *rows.shape[1:])


def matmul_model(
    attributes: dict[str, Any],
    inputs: dict[str, np.ndarray],
    constant: bool = True,
    residual: bool = False,
) -> onnx.ModelProto:
    """A model of one ``LowBitMatMul``.

    X and the residual are fed; the other inputs are initializers, or fed as well but for the
    Hadamard transform's base, which must be constant.
    """
    names = ["X", *(name if name in inputs else "" for name in MATMUL_INPUTS)]
    names.append("residual" if residual else "")
    names += [name if name in inputs else "" for name in LATER_INPUTS]
    fed = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in ("X", "residual")[: 1 + residual]
    ]
    outputs = max(len(attributes.get("splits", [])), 1)
    return _model("LowBitMatMul", names, fed, attributes, inputs, constant, outputs)


def gather_model(
    attributes: dict[str, Any],
    inputs: dict[str, np.ndarray],
    index_type: int = TensorProto.INT64,
    constant: bool = True,
) -> onnx.ModelProto:
    """A model of one ``LowBitGather`` with the graph input ``indices``."""
    names = [*(name if name in inputs else "" for name in GATHER_INPUTS), "indices"]
    indices = helper.make_tensor_value_info("indices", index_type, None)
    return _model("LowBitGather", names, [indices], attributes, inputs, constant)


def _model(
    op: str,
    names: list[str],
    fed: list[onnx.ValueInfoProto],
    attributes: dict[str, Any],
    inputs: dict[str, np.ndarray],
    constant: bool,
    outputs: int = 1,
) -> onnx.ModelProto:
    while not names[-1]:
        names.pop()
    results = ["Y"] if outputs == 1 else [f"Y{index}" for index in range(outputs)]
    node = helper.make_node(op, names, results, name="node", domain="bitfold", **attributes)
    ys = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in results]
    weights = [numpy_helper.from_array(array, name) for name, array in inputs.items()]
    kept = [tensor for tensor in weights if constant or tensor.name == "hadamard"]
    shapes = [
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in weights
        if tensor not in kept
    ]
    graph = helper.make_graph([node], "g", [*fed, *shapes], ys, kept)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("bitfold", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def session(model: onnx.ModelProto, threads: int = 1) -> ort.InferenceSession:
    """Open a model in ORT with bitfold's operator library."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = False  # sanitizers see where tensors end
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.register_custom_ops_library(str(op_library_path()))
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def matmul_session(case: Case, threads: int = 1) -> ort.InferenceSession:
    """A session for one case."""
    return session(matmul_model(case.attributes(), case.weights(), residual=case.residual), threads)


def gather_expected(case: Case, inputs: dict[str, np.ndarray], indices: np.ndarray) -> np.ndarray:
    """The oracle's rows."""
    return lowbit_gather(
        inputs["packed"],
        inputs["scales"],
        inputs.get("zero_points"),
        inputs.get("table"),
        indices,
        n=case.n,
        k=case.k,
        bits=case.bits,
        group_size=case.group_size,
        **case.factor,
    )


def gather_attributes(case: Case) -> dict[str, Any]:
    """A ``LowBitGather`` node's attributes."""
    shared = {key: case.attributes()[key] for key in ("N", "K", "bits", "group_size", "layout")}
    return {**shared, **case.factor}
