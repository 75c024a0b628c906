"""The main job on the trained model that comes with bitfold: convert, check, run, repeat."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import bitfold
from bitfold.frontend.emit import write_model
from bitfold.frontend.importers import import_model
from bitfold.frontend.perplexity import score_text
from bitfold.models import trained
from bitfold.passes.presets import PRESETS

# Mean KL to the float model on held-out text that each preset must stay below.  Rounding to
# nearest costs this model 0.0001 at 8 bits, 0.02 at 4, 0.14 at 3 and 2.6 at 2.
BOUNDS = {
    "w8a8": 0.001,
    "w4a8": 0.03,
    "w4a8-mixed": 0.0085,
    "w4a16": 0.03,
    "w3a8": 0.15,
    "w2a8": 3.0,
    "ternary": 6.0,
}


@pytest.fixture(scope="module")
def float_path(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("float")
    write_model(trained.load(), folder / "model.onnx")
    (folder / "tokenizer.json").write_bytes(trained.tokenizer_path().read_bytes())
    return folder / "model.onnx"


def tokens(count: int) -> np.ndarray:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(trained.tokenizer_path()))
    return np.array(tokenizer.encode(trained.eval_text()).ids[:count])


@pytest.mark.parametrize("preset", BOUNDS)
def test_presets_keep_their_quality_with_and_without_the_library(preset, float_path, tmp_path):
    output = tmp_path / "out.onnx"
    result = bitfold.convert(float_path, output, preset=preset)
    assert [e.status for e in result.report.passes].count("rolled-back") == 0
    assert {"LowBitMatMul", "LowBitGather"} <= {node.op_type for node in result.model.graph}
    ids = tokens(1024)
    reference = bitfold.Session(float_path).ort
    scores = [
        score_text(bitfold.Session(output, library=library).ort, ids, 256, reference=reference)
        for library in (True, False)
    ]
    assert all(score.kl < BOUNDS[preset] for score in scores)
    assert scores[0].perplexity == pytest.approx(scores[1].perplexity, rel=2e-3)


def test_the_preset_without_quantization_is_exact(float_path):
    result = bitfold.convert(float_path, preset="float", verify="full")
    assert result.report.total is not None
    assert result.report.total.max_error < 1e-4
    statuses = {entry.name: entry.status for entry in result.report.passes}
    assert statuses["merge-siblings"] == statuses["fuse-attention"] == "applied"


@dataclasses.dataclass(frozen=True)
class ShrinkGain(bitfold.Pass):
    """Claims to be exact, but scales one norm's gain."""

    name = "shrink-gain"
    promise = bitfold.Promise.EXACT

    def run(self, model: ir.Model, context: bitfold.Context) -> bool:
        norm = [node for node in model.graph if node.op_type == "RMSNormalization"][3]
        gain = norm.inputs[1]
        shrunk = ir.Value(name="shrunk", type=gain.type, shape=gain.shape)
        shrunk.const_value = ir.tensor(gain.const_value.numpy() * np.float32(0.99), name="shrunk")
        model.graph.register_initializer(shrunk)
        norm.replace_input_with(1, shrunk)
        context.entry.changed(norm.name, "gain taken by 0.99")
        return True


def test_a_wrong_exact_pass_is_rolled_back_and_its_node_named(float_path):
    recipe = ["canonicalize", ShrinkGain(), "quantize{weights=int8}, lower"]
    result = bitfold.convert(float_path, passes=recipe)
    entries = {entry.name: entry for entry in result.report.passes}
    wrong = entries["shrink-gain"]
    assert wrong.status == "rolled-back"
    norms = [n.name for n in result.model.graph if n.op_type == "RMSNormalization"]
    assert repr(norms[3]) in (wrong.culprit or "")
    assert "shrunk" not in result.model.graph.initializers
    assert entries["quantize"].status == entries["lower"].status == "applied"
    assert result.report.total.kl < 0.01
    with pytest.raises(bitfold.BitfoldError, match="shrink-gain"):
        bitfold.convert(float_path, passes=recipe, strict=True)


CONVERT = """
import sys, bitfold
bitfold.convert(sys.argv[1], sys.argv[2], preset="w4a8", seed=7)
"""


def test_the_same_recipe_and_seed_give_the_same_bytes(float_path, tmp_path):
    """Whatever the number of threads, and in another process with another hash seed."""
    written = []
    for threads in (1, 2):
        path = tmp_path / str(threads) / "out.onnx"
        path.parent.mkdir()
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": str(threads),
            "PYTHONHASHSEED": str(threads),
        }
        command = [sys.executable, "-c", CONVERT, str(float_path), str(path)]
        if sys.platform == "linux":
            processors = sorted(os.sched_getaffinity(0))[:threads]
            pin = f"import os; os.sched_setaffinity(0, {processors})"
            command[2] = pin + CONVERT
        subprocess.run(command, check=True, env=environment, cwd=tmp_path)
        written.append((path.read_bytes(), path.with_name("out.onnx.data").read_bytes()))
    assert written[0] == written[1]


def test_a_converted_model_replays_its_recipe(float_path, tmp_path):
    first, second = tmp_path / "first" / "out.onnx", tmp_path / "second" / "out.onnx"
    for path in (first, second):
        path.parent.mkdir()
    recipe = "canonicalize, quantize{weights=int3 group=16 acts=none}, lower"
    bitfold.convert(float_path, first, passes=recipe, seed=5)
    bitfold.convert(float_path, second, recipe=first)
    assert import_model(second).metadata_props["bitfold.seed"] == "5"
    assert first.read_bytes() == second.read_bytes()
    data = [path.with_name("out.onnx.data").read_bytes() for path in (first, second)]
    assert data[0] == data[1]


def test_reports_and_sidecars_are_written(float_path, tmp_path):
    output, report = tmp_path / "o" / "m.onnx", tmp_path / "report"
    output.parent.mkdir()
    bitfold.convert(float_path, output, preset="w8a8", exclude=["*down_proj*"], report=report)
    written = json.loads((report / "report.json").read_text())
    quantize = next(entry for entry in written["passes"] if entry["name"] == "quantize")
    assert len(quantize["skips"]) == trained.config().layers
    assert {skip["text"] for skip in quantize["skips"]} == {"excluded by the recipe"}
    assert (output.parent / "tokenizer.json").is_file()


def test_every_preset_is_a_recipe():
    from bitfold.frontend.recipes import resolve_recipe

    for name in PRESETS:
        assert len(resolve_recipe(preset=name)) >= 5
