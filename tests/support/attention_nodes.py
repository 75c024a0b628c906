"""Random ``FusedAttention`` nodes, as ONNX models, beside their oracle's answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import TensorProto, helper
from support.lowbit_nodes import session

from bitfold.runtime.ops.body import call
from bitfold.runtime.ops.fused_attention import INPUTS, FusedAttention
from bitfold.runtime.reference.fused_attention import fused_attention

OUTPUTS = ("Y", "present_key", "present_value")


@dataclass(frozen=True)
class AttentionCase:
    """One configuration and its sizes.

    Attributes:
        heads: query heads, K/V heads, head size.
        queries: query tokens; as many new keys where it is causal or packed.
        added: new keys; None for one a query, 0 for no inputs key and value.
        past: keys in the caches; None for no caches.
        spare: more room in the caches, behind the past keys.
        short: how many keys fewer the batch entries after the first count, each more than the one
            before; lengths are given where there is ``spare``, or this is not 0.
        mask: sizes of the additive mask's axes: ``b``, ``h``, ``q`` and ``k``, or 1.
    """

    heads: tuple[int, int, int]
    queries: int
    added: int | None = None
    past: int | None = None
    spare: int = 0
    short: int = 0
    batch: int = 1
    packed: bool = False
    causal: bool = False
    rotary: bool = False
    interleaved: bool = False
    softcap: float = 0.0
    mask: str = ""
    scale: float = 0.125
    seed: int = 0

    @property
    def new_keys(self) -> int:
        """New keys."""
        return self.queries if self.added is None else self.added

    @property
    def operator(self) -> FusedAttention:
        """The operator's configuration."""
        counted = bool(self.spare or self.short)
        return FusedAttention(
            *self.heads,
            scale=self.scale,
            packed=self.packed,
            causal=self.causal,
            interleaved=self.interleaved,
            softcap=self.softcap,
            key=not self.packed and self.new_keys > 0,
            past=self.past is not None,
            lengths=counted,
            total=counted,
            rotary=self.rotary,
            mask=bool(self.mask),
            present=self.past is not None and self.new_keys > 0,
        )

    def feeds(self) -> dict[str, np.ndarray]:
        """Random inputs."""
        rng = np.random.default_rng(self.seed)
        heads, kv, head = self.heads

        def floats(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(np.float32)

        width = heads + 2 * kv if self.packed else heads
        feeds = {"query": floats(self.batch, self.queries, width * head)}
        if not self.packed and self.new_keys:
            feeds["key"] = floats(self.batch, self.new_keys, kv * head)
            feeds["value"] = floats(self.batch, self.new_keys, kv * head)
        past = self.past or 0
        total = past + self.new_keys
        if self.past is not None:
            room = past + self.spare
            for name in ("past_key", "past_value"):
                feeds[name] = floats(self.batch, kv, room, head)
        if self.operator.lengths:
            lengths = total - self.short * np.arange(self.batch)
            feeds["lengths"] = np.maximum(lengths, 0).astype(np.int64)
            feeds["total"] = np.array([total], np.int64)
        if self.rotary:
            angles = np.outer(np.arange(total), 0.1 ** (np.arange(head // 2) / 7))
            feeds["cos"] = np.cos(angles).astype(np.float32)
            feeds["sin"] = np.sin(angles).astype(np.float32)
        if self.mask:
            room = max(past + self.spare, total)
            sizes = {"b": self.batch, "h": heads, "q": self.queries, "k": room, "1": 1}
            mask = floats(*(sizes[axis] for axis in self.mask))
            mask[rng.random(mask.shape) < 0.2] = -np.inf
            feeds["mask"] = mask
        return feeds

    def expected(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The oracle's outputs."""
        found = fused_attention(**feeds, **self.operator.attributes())  # type: ignore[arg-type]
        return list(found[: 3 if self.operator.present else 1])


def attention_model(
    case: AttentionCase, feeds: dict[str, np.ndarray], attributes: dict[str, object] | None = None
) -> onnx.ModelProto:
    """A model of one node, with the kernels' library alone."""
    names = [name if name in feeds else "" for name in INPUTS]
    outputs = OUTPUTS if case.operator.present else OUTPUTS[:1]
    changed = {**case.operator.attributes(), **(attributes or {})}
    node = helper.make_node("FusedAttention", names, outputs, domain="bitfold", **changed)
    graph = helper.make_graph(
        [node],
        "attention",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim
            )
            for name, array in feeds.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("bitfold", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def body_model(case: AttentionCase, feeds: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A model whose node carries its function body."""
    operator = case.operator
    inputs = {
        name: ir.Value(
            name=name,
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            shape=ir.Shape([None] * array.ndim),
        )
        for name, array in feeds.items()
    }
    graph = ir.Graph(list(inputs.values()), [], nodes=[], opset_imports={"": 23}, name="attention")
    model = ir.Model(graph, ir_version=10)
    node = call(
        model,
        operator.function(),
        [inputs.get(name) for name in INPUTS],
        operator.attributes(),
        "attention",
    )
    graph.append(node)
    for name, output in zip(OUTPUTS, node.outputs, strict=False):
        output.name = name
        output.type = ir.TensorType(ir.DataType.FLOAT)
        output.shape = ir.Shape([None] * (3 if name == "Y" else 4))
        graph.outputs.append(output)
    return ir.to_proto(model)


def attention_session(
    case: AttentionCase, feeds: dict[str, np.ndarray], threads: int = 1
) -> ort.InferenceSession:
    """A session of one node."""
    return session(attention_model(case, feeds), threads)
