"""How time and memory of quantizing by GPTQ grow with the layers of a decoder.

Run from anywhere::

    python tests/benchmarks/bench_growth.py [--layers 2,4,8,16] [--dim 256] [--json out.json]

Each depth is converted in a process of its own, from a file to a file, as ``bitfold convert`` does
it.  Seconds are of the process, which other work disturbs less than those of the clock; memory is
the largest that the process had for itself (anonymous: pages of mapped files, which the system
takes back at will, are shown apart).  What was written is loaded and run before it counts: its
logits must be near the float model's.  The last lines say what a layer adds, between each depth and
the one before: equal numbers mean linear growth.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

RECIPE = (
    "canonicalize, merge-siblings, fuse-swiglu, fuse-attention, "
    "quantize{weights=int4 embeddings=int8 method=gptq}, lower"
)
SAMPLES, LENGTH, VOCAB = 8, 256, 2048


class PeakMemory:
    """The most memory of this process while it was watched, in bytes; Linux's own account."""

    def __init__(self) -> None:
        self.anonymous = self.mapped = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            lines = Path("/proc/self/status").read_text().splitlines()
            found = dict(line.split(":", 1) for line in lines)
            self.anonymous = max(self.anonymous, 1024 * int(found["RssAnon"].split()[0]))
            self.mapped = max(self.mapped, 1024 * int(found["RssFile"].split()[0]))


def measure(layers: int, dim: int) -> dict[str, float]:
    """Convert a decoder of so many layers in this process; seconds and bytes."""
    from bitfold.frontend.convert import convert
    from bitfold.frontend.emit import write_model
    from bitfold.frontend.text_samples import causal_feeds
    from bitfold.models.llama import build_llama
    from bitfold.models.llama_config import LlamaConfig
    from bitfold.runtime.session import Session

    heads = dim // 64
    config = LlamaConfig(layers, dim, heads, heads, 64, 3 * dim, VOCAB, tied_head=True)
    rng = np.random.default_rng(0)
    weights = {
        name: np.float32(1 + 0.1 * rng.standard_normal(shape))
        if len(shape) == 1
        else rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[1]))
        for name, shape in config.weight_shapes().items()
    }
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "low.onnx"
        model = build_llama(config, weights)
        write_model(model, source)
        ids = rng.integers(0, VOCAB, (SAMPLES, 1, LENGTH))
        feeds = [causal_feeds(model, each, {}) for each in ids]
        del model, weights
        clock, processor = time.perf_counter(), time.process_time()
        with PeakMemory() as peak:
            convert(source, target, passes=RECIPE, calibration=feeds[1:], samples=feeds[:1])
        seconds, elapsed = time.process_time() - processor, time.perf_counter() - clock
        logits = [Session(path).run(feeds[0])["logits"] for path in (source, target)]
        size = source.with_name(f"{source.name}.data").stat().st_size
    a, b = (array.astype(np.float64).reshape(-1) for array in logits)
    cosine = float(a @ b / np.sqrt((a @ a) * (b @ b)))
    if cosine < 0.9:
        raise SystemExit(f"{layers} layers: the result is far from the float model, {cosine=:.4f}")
    return {
        "layers": layers,
        "float_bytes": size,
        "seconds": seconds,
        "elapsed": elapsed,
        "anonymous": peak.anonymous,
        "mapped": peak.mapped,
        "cosine": cosine,
    }


def main() -> None:
    """Print a line for each depth, and what a layer adds."""
    from bitfold.frontend.machine import describe_machine

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", default="2,4,8,16")
    parser.add_argument("--dim", type=int, default=256, help="a multiple of 64")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--here", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.here, options.dim)))
        return
    machine = describe_machine()
    print(machine["cpu"])
    rows: list[dict[str, float]] = []
    for layers in options.layers.split(","):
        command = [sys.executable, __file__, "--here", layers, "--dim", str(options.dim)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        print(
            f"{row['layers']:3} layers, {row['float_bytes'] / 1e6:6.1f} MB of floats: "
            f"{row['seconds']:6.1f} s of the processor, {row['elapsed']:6.1f} s, "
            f"{row['anonymous'] / 1e6:6.1f} MB anonymous, {row['mapped'] / 1e6:6.1f} MB mapped, "
            f"cosine {row['cosine']:.4f}",
            flush=True,
        )
    for before, after in itertools.pairwise(rows):
        more = after["layers"] - before["layers"]
        seconds = (after["seconds"] - before["seconds"]) / more
        memory = (after["anonymous"] - before["anonymous"]) / more
        print(
            f"from {before['layers']} to {after['layers']} layers, each adds "
            f"{seconds:.2f} s and {memory / 1e6:.2f} MB"
        )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "results": rows}, indent=2))


if __name__ == "__main__":
    main()
