"""Activations of few bits, from the command line to the operators."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import bitfold
from bitfold.frontend.cli.main import cli
from bitfold.frontend.emit import write_model
from bitfold.frontend.perplexity import score_text
from bitfold.models import trained

LOWER = "canonicalize, merge-siblings, fuse-swiglu, quantize{%s}, lower"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("float")
    write_model(trained.load(), folder / "model.onnx")
    (folder / "tokenizer.json").write_bytes(trained.tokenizer_path().read_bytes())
    return folder / "model.onnx"


def tokens(count: int) -> np.ndarray:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(trained.tokenizer_path()))
    return np.array(tokenizer.encode(trained.eval_text()).ids[:count])


def run_json(*arguments: Any) -> Any:
    result = CliRunner().invoke(cli, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("options", "scheme", "bound"),
    [
        ("weights=int8 acts=int4", "8 bits, group 32, int4 inputs", 0.1),
        ("weights=int4 acts=int3 act_granularity=token", "4 bits, group 32, int3 inputs", 5),
        ("weights=int2 acts=int2 embeddings=int8", "2 bits, group 32, int2 inputs", 9),
        ("weights=ternary acts=int1 embeddings=int8", "2 bits, group 32, int1 inputs", 9),
        ("weights=binary acts=int1 embeddings=int8", "1 bits, group 32, int1 inputs", 9),
    ],
)
def test_convert(options: str, scheme: str, bound: float, model: Path, tmp_path: Path) -> None:
    """Kernels and function bodies alike, and no worse than so few bits must be."""
    out = tmp_path / "out.onnx"
    made = run_json("convert", model, "-o", out, "--passes", LOWER % options)
    assert all(entry["status"] != "rolled-back" for entry in made["report"]["passes"])
    sites = run_json("inspect", out, "--no-plan")["sites"]
    assert scheme in {site["scheme"] for site in sites}
    ids, reference = tokens(256), bitfold.Session(model).ort
    kernels, bodies = (bitfold.Session(out, library=library).ort for library in (True, False))
    for session in (kernels, bodies):
        assert score_text(session, ids, 128, reference=reference).kl < bound
    # Some sums of signs are 0: what rounding makes of them in the bodies has either sign.
    assert score_text(kernels, ids, 128, reference=bodies).kl < bound / 20


def test_fewer_bits_cost_more(model: Path, tmp_path: Path) -> None:
    ids, reference, losses = tokens(256), bitfold.Session(model).ort, []
    for acts in ("int8", "int4", "int2"):
        out = tmp_path / f"{acts}.onnx"
        run_json("convert", model, "-o", out, "--passes", LOWER % f"weights=int8 acts={acts}")
        losses.append(score_text(bitfold.Session(out).ort, ids, 128, reference=reference).kl)
    assert losses == sorted(losses)
    assert losses[0] < losses[1] / 10
