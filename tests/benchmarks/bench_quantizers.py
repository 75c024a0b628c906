"""Weight quantizers side by side: what each leaves of a model's fidelity at the same bits.

Run from anywhere::

    python tests/benchmarks/bench_quantizers.py [MODEL ...] [--bits int4 ...] [--method gptq ...]

Inputs stay float, groups are of 32, embedding tables have 8 bits.  Even levels have zero points,
a quarter of a bit a weight that learned levels and powers do without.  Low-rank branches and sums
of binary weights take bytes of their own: see the files' sizes.  Statistics are taken from a text
of CPython's documentation, or the last inputs of the model's task; fidelity is measured on others,
as in ``bench_rotations.py``: a language model's mean KL on a news text, any other model's mean
cosine to the float model's first output.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from benchmarks.bench_rotations import distance  # noqa: E402

from bitfold.frontend.convert import convert  # noqa: E402
from bitfold.frontend.feeds import load_feeds  # noqa: E402
from bitfold.frontend.machine import describe_machine  # noqa: E402
from bitfold.frontend.sources import find_model  # noqa: E402
from bitfold.frontend.tasks import Setting, find_task, task_of  # noqa: E402
from bitfold.models.trained import calibration_text  # noqa: E402
from bitfold.passes.core.context import Feeds  # noqa: E402
from bitfold.passes.presets import FOLD, FUSE  # noqa: E402
from bitfold.runtime.session import Session  # noqa: E402

MODELS = ("smollm2-135m", "all-minilm-l6-v2", "whisper-tiny.en-encoder", "efficientnet-lite0")
BITS = ("int4", "int3", "int2")
METHODS = {
    "rtn": "weights={bits} method=rtn",
    "gptq, parallel": "weights={bits} method=gptq sequential=false",
    "gptq": "weights={bits} method=gptq",
    "rsq": "weights={bits} method=gptq tokens=attention",
    "inverse-norm": "weights={bits} method=gptq tokens=inverse-norm",
    "ada-dim": "weights={bits} method=ada-dim",
    "power": "weights=power{width} method=rtn",
    "learned": "weights=learned{width} method=rtn",
    "learned, gptq": "weights=learned{width} method=gptq",
    "adaround": "weights={bits} method=adaround",
    "adaquant": "weights={bits} method=adaquant",
    "pvq": "weights={bits} method=pvq",
    "rtn + lorc": "weights={bits} method=rtn rank=16",
    "lorc": "weights={bits} method=gptq rank=16",
    "svdquant": "weights={bits} method=gptq rank=16 low_rank=weight",
    "dual-binary": "weights=binary group=64 method=dual-binary",
    "pb": "weights=binary group=128 method=pb",
}
"""Options of ``quantize``.  Those without bits take from 2 to 3 bits, whatever is asked."""
INPUTS = 32
"""Inputs of a task that statistics are taken from, at most."""


def calibration(model: Path, folder: Path) -> list[Feeds]:
    """Inputs to take statistics from."""
    task = task_of(Session(model))
    if task == "text-generation":
        text = folder / "calibration.txt"
        text.write_text(calibration_text(), "utf-8")
        return load_feeds(text, model)
    assert task is not None
    feeds = find_task(task).feeds(Session(model), Setting())
    return feeds[-min(INPUTS, len(feeds) // 2) :]


def main() -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--bits", action="append", choices=BITS)
    parser.add_argument("--method", action="append", choices=METHODS)
    parser.add_argument("--limit", type=int, default=2, help="chunks of a text; inputs / 4")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    head = f"{'model':26} {'bits':6} {'method':16} {'MB':>7} {'measure':8} {'figure':>8}"
    print(f"{head} {'seconds':>8}")
    for name in options.models:
        path = find_model(name)
        with tempfile.TemporaryDirectory(prefix="bitfold-bench-") as temporary:
            folder = Path(temporary)
            feeds = calibration(path, folder)
            for bits in options.bits or BITS:
                for method in options.method or METHODS:
                    if "{" not in METHODS[method] and bits != "int2":
                        continue
                    options_of = METHODS[method].format(bits=bits, width=bits[-1])
                    scheme = f"embeddings=int8 acts=none {options_of}"
                    recipe = f"{FOLD}, {FUSE}, quantize{{{scheme}}}, lower"
                    file, start = folder / "model.onnx", time.perf_counter()
                    convert(path, file, passes=recipe, calibration=feeds, verify="off", force=True)
                    seconds = time.perf_counter() - start
                    size = sum(each.stat().st_size for each in folder.glob("model.onnx*")) / 1e6
                    measure, figure = distance(path, file, options.limit)
                    row = {"model": name, "bits": bits, "method": method, "megabytes": size}
                    rows.append({**row, "measure": measure, "figure": figure, "seconds": seconds})
                    line = f"{name:26} {bits:6} {method:16} {size:7.2f} {measure:8} {figure:8.4f}"
                    print(f"{line} {seconds:8.1f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": describe_machine(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
