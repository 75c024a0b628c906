"""The memory that a conversion takes, beside that of the float weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bitfold
from bitfold.frontend.convert import convert
from bitfold.frontend.emit import write_model
from bitfold.frontend.text_samples import causal_feeds
from bitfold.models.llama import build_llama
from bitfold.models.llama_config import LlamaConfig

CONFIG = LlamaConfig(8, 512, 8, 8, 64, 2048, 512, tied_head=True)
"""Weights of 135 MB, none of them much of that; beside these, all else is small."""

RECIPE = (
    "canonicalize, merge-siblings, allocate{bits=6 formats=[int4,int8] groups=[32]}, "
    "quantize{symmetric=true ranges=minmax}, lower"
)

MOST = 2.4
"""Times the float weights: a session reads all of them, and some values are computed from each."""


def resident(name: str) -> int:
    """Bytes of memory of this process, with the files that it has mapped and read."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def convert_and_tell(source: Path, target: Path) -> None:
    """Convert as the command line does, with every check; print how much memory that took."""
    model = bitfold.load(source)
    ids = np.random.default_rng(0).integers(0, CONFIG.vocab, (1, 32))
    feeds = causal_feeds(model, ids, {})
    del model
    before = resident("VmHWM")
    convert(source, target, passes=RECIPE, samples=[feeds])
    print(resident("VmHWM") - before)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux how much memory a process takes")
def test_memory_is_little_more_than_the_weights_twice(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {
        name: rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[-1]))
        for name, shape in CONFIG.weight_shapes().items()
    }
    source, target = tmp_path / "float.onnx", tmp_path / "low.onnx"
    write_model(build_llama(CONFIG, weights), source)
    size = source.with_name(f"{source.name}.data").stat().st_size
    command = [sys.executable, __file__, str(source), str(target)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    assert int(done.stdout) < MOST * size


if __name__ == "__main__":
    convert_and_tell(Path(sys.argv[1]), Path(sys.argv[2]))
