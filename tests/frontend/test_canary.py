"""A file that ORT does not run right is not published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner

import bitfold
from bitfold.frontend import canary, emit
from bitfold.frontend import convert as module
from bitfold.frontend.cli.main import cli
from bitfold.models.tiny import TINY
from bitfold.passes.lower.stored_blocks import StoredBlocks
from bitfold.runtime.errors import UnsupportedError, VerificationError

ALTERED = [
    ("zeros", lambda array: array * 0, "0.0 everywhere"),
    ("a constant", lambda array: array * 0 + 3, "3.0 everywhere"),
    ("NaN", lambda array: array * np.float32(np.nan), "not finite"),
    ("noise", lambda array: array[..., ::-1], "of its root mean square"),
    ("twice as much", lambda array: array * 2, "of its root mean square"),
]


@pytest.mark.parametrize(
    ("target", "alter", "reason"),
    [
        *(pytest.param("ort", *rest, id=f"ort, {what}") for what, *rest in ALTERED),
        *(
            pytest.param(target, *ALTERED[0][1:], id=f"{target}, zeros")
            for target in ("native", "portable")
        ),
    ],
)
def test_a_runtime_that_answers_wrong(
    target: str,
    alter: Callable[[np.ndarray], np.ndarray],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Wrong(bitfold.Session):
        def run(self, feeds: Any, outputs: Any = None) -> dict[str, np.ndarray]:
            return {name: alter(array) for name, array in super().run(feeds, outputs).items()}

    monkeypatch.setattr(canary, "Session", Wrong)
    with pytest.raises(VerificationError, match="wrong answers") as caught:
        bitfold.convert(TINY["bert"](0), tmp_path / "m.onnx", preset="w4a8", target=target)
    assert reason in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_nothing_is_run_where_nothing_shall_be_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canary, "Session", None)
    bitfold.convert(TINY["bert"](0), tmp_path / "m.onnx", preset="w4a8", verify="off")
    assert (tmp_path / "m.onnx").is_file()


@pytest.mark.parametrize("target", ["native", "ort", "portable"])
def test_scales_that_are_lost_on_the_way_to_the_file(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lossy(model: ir.Model, path: Path, **options: Any) -> None:
        copy = model.clone()
        for name, value in copy.graph.initializers.items():
            if "scales" in name:
                zeros = np.zeros_like(value.const_value.numpy())
                value.const_value = ir.tensor(zeros, name=name)
        emit.write_model(copy, path, **options)

    monkeypatch.setattr(module, "write_model", lossy)
    with pytest.raises(VerificationError, match="wrong answers"):
        bitfold.convert(TINY["vit"](0), tmp_path / "m.onnx", preset="w8a8", target=target)
    assert not list(tmp_path.iterdir())


def test_a_lowering_that_writes_zero_scales_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline rolls it back; what is left then is not for the target."""

    def zeros(self: StoredBlocks) -> ir.Value:
        return self._add("scales", np.zeros_like(self.arrays.scales))

    monkeypatch.setattr(StoredBlocks, "scales", property(zeros))
    with pytest.raises(VerificationError, match="operators of target ort") as caught:
        bitfold.convert(TINY["bert"](0), tmp_path / "m.onnx", preset="w8a8", target="ort")
    assert "MatMulNBits" in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", list(TINY))
@pytest.mark.parametrize("target", ["native", "ort", "portable"])
@pytest.mark.parametrize("preset", ["w8a8", "w2a8"])
def test_right_files_pass(name: str, target: str, preset: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    bitfold.convert(TINY[name](0), path, preset=preset, target=target)
    proto = onnx.load(path)
    domains = {node.domain for node in proto.graph.node}
    assert bitfold.Session(path, library=False).metadata["bitfold.target"] == target
    if target == "portable":
        onnx.checker.check_model(str(path), full_check=True)
        assert domains == {""}
        assert not proto.functions
    elif target == "ort":
        assert domains <= {"", "com.microsoft"}
        assert not proto.functions


def test_operators_that_the_target_lacks_are_named(tmp_path: Path) -> None:
    model = TINY["bert"](0)
    node = next(node for node in model.graph if node.op_type == "Erf")
    gelu = ir.node("FastGelu", [node.inputs[0]], domain="com.microsoft", name="theirs")
    ir.convenience.replace_nodes_and_values(
        model.graph, node, [node], [gelu], [node.outputs[0]], [gelu.outputs[0]]
    )
    model.graph.opset_imports["com.microsoft"] = 1
    with pytest.raises(UnsupportedError, match=r"'theirs' \(com.microsoft.FastGelu\)"):
        bitfold.convert(model, tmp_path / "m.onnx", preset="w8a8", target="portable")
    assert not list(tmp_path.iterdir())
    bitfold.convert(model, tmp_path / "m.onnx", preset="w8a8", target="ort")


def test_a_refused_scheme_has_its_exit_code(tmp_path: Path) -> None:
    path = tmp_path / "float.onnx"
    ir.save(TINY["bert"](0), path)
    out = tmp_path / "to" / "m.onnx"
    out.parent.mkdir()
    passes = "canonicalize, quantize{group=48}, lower"
    words = ["convert", str(path), "-o", str(out), "--passes", passes, "--target", "ort"]
    refused = CliRunner().invoke(cli, words)
    assert refused.exit_code == UnsupportedError.exit_code
    assert "each 48 inputs" in refused.stderr
    assert "lower{emulate=true}" in refused.stderr
    assert not list(out.parent.iterdir())
    words[5] = passes.replace("lower", "lower{emulate=true}")
    emulated = CliRunner().invoke(cli, words)
    assert emulated.exit_code == 0, emulated.stderr
    assert out.is_file()
