from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from bitfold.models.llama import build_llama
from bitfold.models.llama_config import LlamaConfig
from bitfold.runtime.errors import ModelError

CONFIG = LlamaConfig(layers=2, dim=24, heads=6, kv_heads=2, head_dim=8, ffn=40, vocab=50)


def _weights(config: LlamaConfig = CONFIG, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(size=shape) * 0.4 + (len(shape) == 1)).astype(np.float32)
        for name, shape in config.weight_shapes().items()
    }


def _session(model: ir.Model) -> ort.InferenceSession:
    return ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )


def _run(
    session: ort.InferenceSession,
    ids: np.ndarray,
    mask: np.ndarray,
    positions: np.ndarray,
    past: list[np.ndarray] | None = None,
) -> list[np.ndarray]:
    names = [i.name for i in session.get_inputs()][3:]
    empty = np.zeros((len(ids), CONFIG.kv_heads, 0, CONFIG.head_dim), np.float32)
    caches = past or [empty] * len(names)
    feed = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    return session.run(None, {**feed, **dict(zip(names, caches, strict=True))})


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_is_valid_onnx_of_standard_ops(tied: bool, kv_heads: int) -> None:
    config = dataclasses.replace(CONFIG, tied_head=tied, kv_heads=kv_heads)
    proto = ir.to_proto(build_llama(config, _weights(config)))
    onnx.checker.check_model(proto, full_check=True)
    assert {node.domain for node in proto.graph.node} == {""}
    assert not any(node.metadata_props for node in proto.graph.node)
    assert ("lm_head.weight" in [i.name for i in proto.graph.initializer]) != tied


def test_every_value_has_a_known_type() -> None:
    for node in build_llama(CONFIG, _weights()).graph:
        assert all(value.type is not None for value in node.outputs), node.name


def test_names_and_shapes() -> None:
    model = build_llama(CONFIG, _weights())
    inputs = [v.name for v in model.graph.inputs]
    assert inputs[:3] == ["input_ids", "attention_mask", "position_ids"]
    assert inputs[3:5] == ["past_key_values.0.key", "past_key_values.0.value"]
    outputs = [v.name for v in model.graph.outputs]
    assert outputs[:3] == ["logits", "present.0.key", "present.0.value"]
    nodes = {node.name: node for node in model.graph}
    assert len(nodes) == len(model.graph)
    projection = nodes["/model/layers.1/self_attn/q_proj/MatMul"]
    weight = projection.inputs[1]
    assert weight.name == "model.layers.1.self_attn.q_proj.weight"
    assert list(weight.shape) == [CONFIG.dim, CONFIG.heads * CONFIG.head_dim]


def test_prefill_equals_two_steps_with_a_cache() -> None:
    session = _session(build_llama(CONFIG, _weights()))
    ids = np.random.default_rng(1).integers(0, 50, (3, 7))
    positions = np.tile(np.arange(7), (3, 1))
    ones = np.ones((3, 7), np.int64)
    full = _run(session, ids, ones, positions)
    first = _run(session, ids[:, :4], ones[:, :4], positions[:, :4])
    second = _run(session, ids[:, 4:], ones, positions[:, 4:], first[1:])
    np.testing.assert_allclose(second[0], full[0][:, 4:], atol=1e-5)
    np.testing.assert_allclose(second[1], full[1], atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side: str) -> None:
    session = _session(build_llama(CONFIG, _weights()))
    ids = np.random.default_rng(1).integers(0, 50, (1, 5))
    alone = _run(session, ids, np.ones((1, 5), np.int64), np.arange(5)[None])[0]
    pad = ((0, 0), (3, 0)) if side == "left" else ((0, 0), (0, 3))
    kept = slice(3, 8) if side == "left" else slice(0, 5)
    mask = np.pad(np.ones((1, 5), np.int64), pad)
    positions = np.pad(np.arange(5)[None], pad, constant_values=1)
    padded = _run(session, np.pad(ids, pad, constant_values=9), mask, positions)[0]
    np.testing.assert_allclose(padded[:, kept], alone, atol=1e-5)
    assert np.isfinite(padded).all()
    # The mask does it: with the padding visible, left padding would change the logits.
    if side == "left":
        seen = _run(session, np.pad(ids, pad, constant_values=9), np.ones_like(mask), positions)[0]
        assert np.abs(seen[:, kept] - alone).max() > 1e-3


def test_no_token_sees_a_later_one() -> None:
    session = _session(build_llama(CONFIG, _weights()))
    ids = np.random.default_rng(1).integers(0, 49, (1, 6))
    other = ids.copy()
    other[0, 4] += 1
    ones, positions = np.ones((1, 6), np.int64), np.arange(6)[None]
    a, b = (_run(session, x, ones, positions)[0][0] for x in (ids, other))
    np.testing.assert_array_equal(a[:4], b[:4])
    assert np.abs(a[4:] - b[4:]).max() > 1e-3


def test_weights_are_read_when_used_and_not_before(tmp_path: Path) -> None:
    reads: list[str] = []

    def weight(name: str) -> ir.LazyTensor:
        def read() -> ir.Tensor:
            reads.append(name)
            return ir.Tensor(array)

        array = _weights()[name]
        return ir.LazyTensor(read, dtype=ir.DataType.FLOAT, shape=ir.Shape(array.shape))

    model = build_llama(CONFIG, weight)
    assert reads == []
    name = "model.layers.0.mlp.up_proj.weight"
    values = model.graph.initializers[name].const_value.numpy()
    assert reads == [name]
    np.testing.assert_array_equal(values, _weights()[name].T)


def test_memory_maps_and_half_floats_are_accepted(tmp_path: Path) -> None:
    weights = _weights()
    maps = {}
    for name, array in weights.items():
        np.save(tmp_path / "w.npy", array.astype(np.float16))
        (tmp_path / "w.npy").rename(tmp_path / f"{name}.npy")
        maps[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    halves = {name: array.astype(np.float16) for name, array in weights.items()}
    a, b = (ir.to_proto(build_llama(CONFIG, w)).SerializeToString() for w in (maps, halves))
    assert a == b


def test_missing_weight() -> None:
    weights = _weights()
    del weights["model.norm.weight"]
    with pytest.raises(ModelError, match=r"model\.norm\.weight is missing"):
        build_llama(CONFIG, weights)


def test_wrong_shape() -> None:
    weights = _weights()
    weights["model.layers.1.mlp.gate_proj.weight"] = np.zeros((24, 40), np.float32)
    with pytest.raises(ModelError, match=r"gate_proj.*expected shape \[40, 24\], found \[24, 40\]"):
        build_llama(CONFIG, weights)


@pytest.mark.parametrize(
    "change",
    [{"kv_heads": 4}, {"head_dim": 7}, {"layers": 0}, {"rope_factors": (1.0,)}],
    ids=lambda change: next(iter(change)),
)
def test_impossible_configurations(change: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="Llama configuration"):
        dataclasses.replace(CONFIG, **change)
