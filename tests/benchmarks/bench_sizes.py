"""A language model at several sizes: what is left of its fidelity, and how fast it runs.

Run from anywhere::

    python tests/benchmarks/bench_sizes.py [MODEL] [--size 70 ...] [--acts none] [--json out.json]

Each size is that of the whole file in MB (1e6 bytes), as for ``convert --size``: ``allocate``
chooses the formats, GPTQ the codes.  Statistics are taken from the first 45,000 bytes of a news
text; mean KL and perplexity are measured on other bytes of it, in chunks of 512 tokens of which the
second half is scored, against the float model.  Tokens a second are medians, two threads, in turns
with the float model.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from bitfold.frontend.bench import bench, model_bytes  # noqa: E402
from bitfold.frontend.evaluate import evaluate  # noqa: E402
from bitfold.frontend.machine import describe_machine  # noqa: E402
from bitfold.frontend.sources import find_model  # noqa: E402
from bitfold.models.catalogue import fetch_entry  # noqa: E402
from bitfold.models.lee_background import CALIBRATION, ENTRY, read_text  # noqa: E402
from bitfold.passes.presets import sized  # noqa: E402

SIZES = (105.0, 92.0, 84.6, 70.0, 60.0)


def measured(
    model: Path, size: float, acts: str, text: Path, chunks: int, rounds: int
) -> dict[str, Any]:
    """The figures of one size."""
    with tempfile.TemporaryDirectory(prefix="bitfold-bench-") as folder:
        file, start = Path(folder) / "model.onnx", time.perf_counter()
        command = [sys.executable, "-m", "bitfold", "convert", str(model), "-o", str(file)]
        command += ["--passes", sized(size, True, acts), "--calibration", str(text)]
        command += ["--verify", "off"]
        subprocess.run(command, check=True, cwd=TESTS.parent, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        score = evaluate(file, model, chunks=chunks, threads=2).score
        assert score is not None
        row = {"size": size, "bytes": model_bytes(file), "kl": score.kl, "top1": score.top1}
        row |= {"perplexity": score.perplexity, "seconds": seconds}
        row["peak_bytes"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        if rounds:
            times = bench(file, model, threads=2, rounds=rounds)
            row |= {"ratios": times.ratios, "prefill_tps": times.models[0].prefill_tps}
            row["decode_tps"] = times.models[0].decode_tps
    return row


def main() -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="smollm2-135m")
    parser.add_argument("--size", type=float, action="append")
    parser.add_argument("--acts", default="int8", help="inputs: int8, or none for float ones")
    parser.add_argument("--chunks", type=int, default=18)
    parser.add_argument("--rounds", type=int, default=3, help="0: no times")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model, rows = find_model(options.model), []
    print("  file MB   mean KL     PPL  top-1  prefill t/s  decode t/s  convert s  peak GB")
    with tempfile.TemporaryDirectory(prefix="bitfold-bench-") as folder:
        text = Path(folder) / "calibration.txt"
        text.write_text(read_text(fetch_entry(ENTRY), CALIBRATION), "utf-8")
        for size in options.size or SIZES:
            row = measured(model, size, options.acts, text, options.chunks, options.rounds)
            rows.append(row)
            speed = [row.get(name, float("nan")) for name in ("prefill_tps", "decode_tps")]
            print(
                f"{row['bytes'] / 1e6:9.1f} {row['kl']:9.4f} {row['perplexity']:7.2f} "
                f"{row['top1']:6.1%} {speed[0]:12.0f} {speed[1]:11.0f} {row['seconds']:10.0f} "
                f"{row['peak_bytes'] / 1e9:8.2f}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps({"machine": describe_machine(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
