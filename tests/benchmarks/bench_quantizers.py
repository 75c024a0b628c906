"""Weight quantizers side by side, and beside other tools': what each leaves of a model's fidelity.

Run from anywhere::

    python tests/benchmarks/bench_quantizers.py [MODEL ...] [--bits 4 ...] [--method gptq ...]
        [--no-peers] [--json out.json]

Inputs stay float, groups are of 32 where a method has them, embedding tables have 8 bits (other
tools leave them as they are).  ``bits`` are those that are stored for a weight of a matmul or
convolution, scales, zero points, low-rank branches and all; ``weights MB`` is their sum.
Statistics are taken from a news text, or the last inputs of the model's task; fidelity is measured
on others: a language model's mean KL on that news, any other model's mean cosine to the float
model's first output.  Seconds are those of a whole conversion, or of the other tool's call.

Below each model: for each row of another tool the best of bitfold's that stores no more bits, and
how many times as far that is from the float model.  Tools that are not installed are left out, with
the reason; see ``peers.py``.  With ``--json`` each result is kept as it comes, and a run that was
stopped goes on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from benchmarks.measuring import Rows, distance, inputs_to_calibrate, stored_by  # noqa: E402
from benchmarks.peers import PEERS, peer_made, stored_weights  # noqa: E402

from bitfold.frontend.convert import convert  # noqa: E402
from bitfold.frontend.sidecars import put_sidecars, read_sidecars  # noqa: E402
from bitfold.frontend.sources import find_model  # noqa: E402
from bitfold.passes.core.context import Feeds  # noqa: E402
from bitfold.passes.presets import FOLD, FUSE  # noqa: E402
from bitfold.runtime.errors import BitfoldError  # noqa: E402

MODELS = (
    "all-minilm-l6-v2",
    "whisper-tiny.en-encoder",
    "whisper-tiny.en-decoder",
    "efficientnet-lite0",
)


@dataclass(frozen=True)
class Way:
    """One way to quantize with bitfold: options of ``quantize``, of as many bits as ``bits``."""

    options: str
    bits: tuple[int, ...] = (4, 3, 2)


METHODS = {
    "rtn": Way("weights=int{bits}"),
    "rtn, symmetric": Way("weights=int{bits} symmetric=true"),
    "rtn, minmax": Way("weights=int{bits} ranges=minmax"),
    "gptq": Way("weights=int{bits} method=gptq"),
    "gptq, parallel": Way("weights=int{bits} method=gptq sequential=false"),
    "rsq": Way("weights=int{bits} method=gptq tokens=attention"),
    "inverse-norm": Way("weights=int{bits} method=gptq tokens=inverse-norm"),
    "ada-dim": Way("weights=int{bits} method=ada-dim"),
    "rtn, biases": Way("weights=int{bits} biases=all"),
    "rtn, variance": Way("weights=int{bits} correct_variance=true"),
    "gptq, biases": Way("weights=int{bits} method=gptq biases=all"),
    "gptq, variance": Way("weights=int{bits} method=gptq correct_variance=true"),
    "gptq, symmetric, e4m3": Way("weights=int{bits} symmetric=true scales=e4m3 method=gptq"),
    "learned, gptq": Way("weights=learned{bits} method=gptq"),
    "learned, gptq, e4m3": Way("weights=learned{bits} scales=e4m3 method=gptq"),
    "learned, gptq, e4m3, 16": Way("weights=learned{bits} scales=e4m3 group=16 method=gptq"),
    "learned": Way("weights=learned{bits}"),
    "power": Way("weights=power{bits}"),
    "gauss": Way("weights=gauss{bits}"),
    "odd, gauss ranges": Way("weights=odd{bits} ranges=gauss"),
    "pvq": Way("weights=int{bits} method=pvq"),
    "nf4": Way("weights=nf4", (4,)),
    "nf4, gptq": Way("weights=nf4 method=gptq", (4,)),
    "fp4": Way("weights=fp4", (4,)),
    "mxfp4": Way("weights=fp4 scales=e8m0", (4,)),
    "nvfp4": Way("weights=fp4 scales=e4m3 group=16", (4,)),
    "quinary": Way("weights=quinary", (3,)),
    "ternary, gptq": Way("weights=ternary method=gptq", (2,)),
    "binary, gptq": Way("weights=binary method=gptq", (2,)),
    "dual-binary": Way("weights=binary group=64 method=dual-binary", (2,)),
    "pb": Way("weights=binary group=128 method=pb", (2,)),
    "rtn + lorc": Way("weights=int{bits} rank=16"),
    "lorc": Way("weights=int{bits} method=gptq rank=16"),
    "svdquant": Way("weights=int{bits} method=gptq rank=16 low_rank=weight"),
    "adaround": Way("weights=int{bits} method=adaround"),
    "adaquant": Way("weights=int{bits} method=adaquant"),
}
HEAD = (
    f"{'model':24} {'width':>5} {'method':29} {'bits':>5} {'file MB':>8} {'weights MB':>10} "
    f"{'measure':7} {'figure':>8} {'seconds':>8}"
)
MINUTES = 4.0


def made(path: Path, file: Path, method: str, bits: int, feeds: list[Feeds]) -> dict[str, Any]:
    """Quantize a model by a method of bitfold's; what that took."""
    recipe = f"embeddings=int8 acts=none {METHODS[method].options.format(bits=bits)}"
    recipe = f"{FOLD}, {FUSE}, quantize{{{recipe}}}, lower"
    start = time.perf_counter()
    done = convert(path, file, passes=recipe, calibration=feeds, verify="off", force=True)
    seconds = time.perf_counter() - start
    nbytes, weights = stored_by(done.report)
    return {"seconds": seconds, "weight_bytes": nbytes, "bits": 8 * nbytes / max(weights, 1)}


def made_by(
    path: Path, file: Path, peer: str, feeds: list[Feeds], minutes: float
) -> dict[str, Any]:
    """Have another tool quantize a model; what that took, or why it did not."""
    seconds, reason = peer_made(peer, path, file, feeds, 60 * minutes)
    if reason:
        return {"reason": reason}
    put_sidecars(read_sidecars(path), file.parent)
    stored = stored_weights(file)
    if not stored.weights:
        return {"reason": "it found nothing to quantize: it takes matmuls alone"}
    return {"seconds": seconds, "weight_bytes": stored.nbytes, "bits": stored.bits}


def line(name: str, width: int, method: str, row: dict[str, Any]) -> str:
    """A row as text, under ``HEAD``."""
    text = f"{name:24} {width:5} {method:29} "
    if "reason" in row:
        return text + row["reason"]
    text += f"{row['bits']:5.2f} {row['bytes'] / 1e6:8.2f} {row['weight_bytes'] / 1e6:10.2f} "
    return text + f"{row['measure']:7} {row['figure']:8.4f} {row['seconds']:8.1f}"


def loss(row: dict[str, Any]) -> float:
    """How far a row is from the float model: its KL, or what its cosine lacks to 1."""
    return float(row["figure"] if row["measure"] == "KL" else 1 - row["figure"])


def comparison(rows: dict[str, dict[str, Any]]) -> list[str]:
    """For each row of another tool, the best of bitfold's that stores no more bits a weight."""
    lines = []
    for name, row in rows.items():
        if name not in PEERS or "reason" in row:
            continue
        mine = {
            own: each
            for own, each in rows.items()
            if own not in PEERS and "reason" not in each and each["bits"] <= row["bits"] + 0.005
        }
        if not mine:
            lines.append(f"{name:29} {row['bits']:5.2f} bits: none of bitfold's stores as few")
            continue
        best = min(mine, key=lambda own: loss(mine[own]))
        times = loss(mine[best]) / loss(row)
        verdict = "ahead" if times < 1 else "BEHIND"
        found = f"{best}, {mine[best]['bits']:.2f} bits {mine[best]['figure']:.4f}"
        lines.append(
            f"{name:29} {row['bits']:5.2f} bits {row['figure']:.4f}: {found}, "
            f"{times:.2f}x as far: {verdict}"
        )
    return lines


def main() -> None:
    """Print the table, row by row, and keep it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--bits", type=int, action="append", choices=(4, 3, 2))
    parser.add_argument("--method", action="append", choices=[*METHODS, *PEERS])
    parser.add_argument("--no-peers", action="store_true", help="bitfold's methods alone")
    parser.add_argument("--samples", type=int, default=32, help="inputs for statistics, at most")
    parser.add_argument("--peer-samples", type=int, default=8, help="the same for other tools")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for a row of another tool")
    parser.add_argument("--limit", type=int, default=2, help="chunks of a text; inputs / 4")
    parser.add_argument("--json", type=Path, help="kept results: read, and written as they come")
    options = parser.parse_args()
    kept = Rows(options.json)
    print(HEAD)
    for name in options.models:
        path = find_model(name)
        feeds = inputs_to_calibrate(name, path, options.samples)
        rows: dict[str, dict[str, Any]] = {}
        for width in options.bits or (4, 3, 2):
            names = [each for each, way in METHODS.items() if width in way.bits]
            if not options.no_peers:
                names += [each for each, (bits, _) in PEERS.items() if bits == width]
            for method in names:
                if options.method and method not in options.method:
                    continue
                key = f"{name}, {width}, {method}"
                ways = METHODS[method].options if method in METHODS else ""
                setting = {"options": ways, "limit": options.limit, "samples": len(feeds)}
                row = kept.get(key, **setting)
                if row is None:
                    with tempfile.TemporaryDirectory(prefix="bitfold-bench-") as temporary:
                        file = Path(temporary) / "model.onnx"
                        try:
                            row = (
                                made(path, file, method, width, feeds)
                                if method in METHODS
                                else made_by(
                                    path,
                                    file,
                                    method,
                                    feeds[-options.peer_samples :],
                                    options.minutes,
                                )
                            )
                            if "reason" not in row:
                                row["measure"], row["figure"] = distance(path, file, options.limit)
                                row["bytes"] = sum(
                                    each.stat().st_size for each in file.parent.glob("model.onnx*")
                                )
                        except BitfoldError as error:
                            row = {"reason": str(error)[:120]}
                    kept.put(key, {**setting, **row})
                rows[method if method in PEERS else f"{method}, {width} bits"] = row
                print(line(name, width, method, row), flush=True)
        print("\n".join(comparison(rows)), flush=True)


if __name__ == "__main__":
    main()
