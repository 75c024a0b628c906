"""What other tools have quantized is found, counted and left alone; float sites convert."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.small_models import MLP, MLP_SHAPES, make_model

from bitfold.frontend.convert import convert
from bitfold.frontend.inspection import inspect
from bitfold.passes.analysis.foreign_sites import find_foreign_sites
from bitfold.runtime.errors import UnsupportedError

quantization = pytest.importorskip("onnxruntime.quantization")

UP, DOWN, HEAD = "matmul_0", "matmul_3", "matmul_5"


class Feeds(quantization.CalibrationDataReader):
    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.left = [rng.standard_normal((4, 24)).astype(np.float32) for _ in range(3)]

    def get_next(self):
        return {"x": self.left.pop()} if self.left else None


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Quantize some nodes of a small model with ONNX Runtime's own tools."""
    monkeypatch.setattr(logging.root, "handlers", [logging.NullHandler()])
    logging.getLogger().setLevel(logging.CRITICAL)
    model = make_model(MLP, {**MLP_SHAPES, "w_up": (24, 64), "b_up": (64,), "w_down": (64, 24)})
    ir.save(model, tmp_path / "float.onnx")
    source = onnx.load(tmp_path / "float.onnx")

    def write(how: str, nodes: list[str]) -> Path:
        path = tmp_path / "q.onnx"
        if how == "dynamic":
            quantization.quantize_dynamic(source, path, nodes_to_quantize=nodes)
        else:
            quantization.quantize_static(
                source,
                path,
                Feeds(),
                quant_format=getattr(quantization.QuantFormat, how),
                nodes_to_quantize=nodes,
            )
        return path

    return write


@pytest.mark.parametrize(
    ("how", "scheme"),
    [("QDQ", "int8, QDQ"), ("QOperator", "int8, QLinearMatMul"), ("dynamic", "MatMulInteger")],
)
def test_the_float_part_converts_and_the_rest_stays(how, scheme, written, tmp_path):
    path = written(how, [UP])
    report = inspect(path, preset="w8a8")
    schemes = [site.scheme for site in report.sites]
    assert sum(scheme in each for each in schemes) == 1
    assert schemes.count("float") == 2
    recipe = "canonicalize, quantize{weights=int8 group=0}"
    result = convert(path, tmp_path / "out.onnx", passes=recipe)
    (entry,) = (each for each in result.report.passes if each.name == "quantize")
    assert {record.site for record in entry.sites} == {DOWN}
    told = [skip.text for skip in entry.skips if "quantized already" in skip.text]
    assert len(told) == 1
    assert scheme in told[0]
    assert len(list(find_foreign_sites(result.model))) == 1
    codes = next(find_foreign_sites(result.model)).codes.const_value
    before = next(find_foreign_sites(ir.load(path))).codes.const_value
    np.testing.assert_array_equal(codes.numpy(), before.numpy())


def test_a_model_that_is_quantized_whole_says_so(written, tmp_path):
    path = written("QDQ", [UP, DOWN, HEAD])
    with pytest.raises(UnsupportedError, match=r"nothing was quantized.*quantized already \(int8"):
        convert(path, tmp_path / "out.onnx", preset="w8a8")
    assert not (tmp_path / "out.onnx").exists()
