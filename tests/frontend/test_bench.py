"""Benchmarks: figures are of what ran, both models ran the same, and a bad output is caught."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.language_models import write_attention_model, write_llama

from bitfold.frontend.bench import _ratios, bench, model_bytes
from bitfold.frontend.bench_process import BenchProcess
from bitfold.frontend.bench_tasks import ModelTimes
from bitfold.models.llama import LlamaConfig
from bitfold.models.tiny import TINY, sample_feeds
from bitfold.runtime.errors import BitfoldError, CalibrationError, ModelError, UnsupportedError
from bitfold.runtime.errors import VerificationError as BadOutput


def test_a_language_model_against_itself(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "llama.onnx")
    result = bench(path, path, threads=1, prefill=20, decode=5, rounds=3)
    assert result.kind == "language-model"
    assert result.divergence is not None
    assert result.divergence.max_error == 0
    assert result.divergence.top1 == 1
    for model in result.models:
        assert model.prefill_tps is not None
        assert model.decode_tps is not None
        assert model.prefill_tps > model.decode_tps > 0
        assert model.latency_ms == pytest.approx(1e3 / model.decode_tps, rel=0.9)
        assert model.peak_bytes > model.idle_bytes > 0
        assert model.cache == "passed"
        assert model.cache_error is not None
        assert model.cache_error < 1e-4
        assert len(model.rounds["prefill_tps"]) == 3
        assert model.bytes == path.stat().st_size
    assert result.ratios is not None
    assert result.ratios["bytes"] == 1
    assert json.loads(json.dumps(result.as_dict()))["settings"]["prefill"] == 20


def test_different_models_diverge(tmp_path: Path) -> None:
    first = write_llama(tmp_path / "a.onnx", seed=0)
    second = write_llama(tmp_path / "b.onnx", seed=1)
    result = bench(first, second, threads=1, prefill=8, decode=2, rounds=1, tokens=[1, 2, 3])
    assert result.divergence is not None
    assert result.divergence.kl is not None
    assert result.divergence.kl > 0.1


def test_shared_cache_is_used(tmp_path: Path) -> None:
    path = write_attention_model(tmp_path / "a.onnx", shared=True)
    result = bench(path, threads=1, prefill=8, decode=4, context=3, rounds=1)
    assert result.models[0].cache == "shared"
    assert result.ratios is None
    assert result.divergence is None
    assert result.settings["context"] == 3


@pytest.mark.parametrize("name", ["bert", "cnn"])
def test_other_models_have_a_latency(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.onnx"
    ir.save(TINY[name](0), path)
    result = bench(path, path, threads=1, rounds=1, feeds=sample_feeds(name, seed=1))
    assert result.kind == "forward"
    assert result.models[0].prefill_tps is None
    assert result.models[0].latency_ms is not None
    assert result.models[0].latency_ms > 0
    assert result.divergence is not None
    assert result.divergence.max_error == 0


def test_peak_memory_is_the_models_own(tmp_path: Path) -> None:
    big = LlamaConfig(layers=1, dim=256, heads=4, kv_heads=4, head_dim=64, ffn=256, vocab=60000)
    paths = [write_llama(tmp_path / "big.onnx", config=big), write_llama(tmp_path / "small.onnx")]
    ballast = np.ones(100_000_000)  # this process's memory is not the other's
    result = bench(*paths, threads=1, prefill=4, decode=2, rounds=1)
    first, second = result.models
    assert first.peak_bytes > second.peak_bytes + 50_000_000
    assert second.peak_bytes < ballast.nbytes


def test_nan_is_not_timed(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "llama.onnx")
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "model.norm.weight":
            array = np.full(tensor.dims, np.nan, np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(model, path)
    with pytest.raises(BadOutput, match="finite"):
        bench(path, threads=1, prefill=4, decode=2, rounds=1)


def test_a_broken_cache_is_not_timed(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "llama.onnx")
    model = onnx.load(path)
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            if name == "present.0.key":
                node.output[index] = "inner"
        node.input[:] = ["inner" if name == "present.0.key" else name for name in node.input]
    model.graph.node.append(onnx.helper.make_node("Neg", ["inner"], ["present.0.key"]))
    onnx.save(model, path)
    with pytest.raises(BadOutput, match="cache"):
        bench(path, threads=1, prefill=20, decode=2, rounds=1)


def test_errors_come_back_from_the_process(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ModelError):
        bench(tmp_path / "text.onnx")
    path = tmp_path / "cnn.onnx"
    ir.save(TINY["cnn"](0), path)
    with pytest.raises(CalibrationError, match="missing"):
        bench(path, threads=1, rounds=1, feeds={"other": np.zeros(3, np.float32)})


def test_a_dead_process_is_reported(tmp_path: Path) -> None:
    process = BenchProcess(write_llama(tmp_path / "llama.onnx"), 1, True)
    process._process.kill()
    with pytest.raises(BitfoldError, match="ended with code"):
        process.call("load")
    process.close()


def test_settings_are_checked(tmp_path: Path) -> None:
    for setting in ("threads", "prefill", "decode", "rounds"):
        with pytest.raises(UnsupportedError, match=setting):
            bench(tmp_path / "any.onnx", **{setting: 0})  # type: ignore[arg-type]


def test_size_counts_external_data_once(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "llama.onnx")
    onnx.save(
        onnx.load(path),
        tmp_path / "out.onnx",
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location="out.data",
        size_threshold=0,
    )
    found = model_bytes(tmp_path / "out.onnx")
    assert found == sum((tmp_path / name).stat().st_size for name in ("out.onnx", "out.data"))


def test_the_load_ratio_is_that_of_the_figures_beside_it() -> None:
    first, second = ModelTimes("a", 10), ModelTimes("b", 20)
    for seconds, others in ((1.0, 4.0), (2.0, 1.0), (3.0, 2.0)):
        first.add("load_seconds", seconds)
        second.add("load_seconds", others)
    ratios = _ratios(first, second)
    first.summarize()
    second.summarize()
    assert first.load_seconds is not None
    assert second.load_seconds is not None
    assert ratios["load_seconds"] == first.load_seconds / second.load_seconds == 1.0
