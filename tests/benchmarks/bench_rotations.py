"""What rotations do to a model at each scheme: none, all, those that pay, and as advised.

Run from anywhere::

    python tests/benchmarks/bench_rotations.py [MODEL ...] [--scheme W4A4 ...] [--json out.json]

Weights are rounded to nearest.  Language models are scored by their mean KL to the float model
over the second half of each chunk of 512 tokens of a text, every other model by the mean cosine
of its first output to the float model's on its task's inputs.  The samples that the advisor
measures on are others: those that a conversion takes by itself.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from benchmarks.measuring import distance  # noqa: E402

from bitfold.frontend.convert import convert  # noqa: E402
from bitfold.frontend.machine import describe_machine  # noqa: E402
from bitfold.frontend.sources import find_model  # noqa: E402
from bitfold.passes.presets import FOLD, FUSE, ROTATED  # noqa: E402

MODELS = (
    "smollm2-135m",
    "all-minilm-l6-v2",
    "whisper-tiny.en-encoder",
    "whisper-tiny.en-decoder",
)

SCHEMES = {
    "A8 per token": "weights=int8 act_granularity=token",
    "A8 per group": "weights=int8",
    "A4 per token": "weights=int8 acts=int4 act_granularity=token",
    "A4 per group": "weights=int8 acts=int4",
    "W4A8": "weights=int4 embeddings=int8",
    "W4A4": "weights=int4 embeddings=int8 acts=int4",
}
"""Options of ``quantize``; activations of 8 or 4 bits alone stand beside weights of 8."""

FORMS = {
    "plain": f"{FOLD}, {FUSE}",
    "rotated": ROTATED,
    "chosen": f"{FOLD}, advise{{SCHEME smooth=false budget=0}}, {FUSE}",
    "advised": f"{FOLD}, advise{{SCHEME}}, {FUSE}",
}
"""``chosen`` is what the presets with ``-rot`` do; ``advised`` smooths and splits, too."""


def main() -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--scheme", action="append", choices=list(SCHEMES))
    parser.add_argument("--form", action="append", choices=list(FORMS))
    parser.add_argument("--limit", type=int, default=4, help="chunks of a text; inputs / 4")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    forms = options.form or list(FORMS)
    rows: list[dict[str, Any]] = []
    print(f"{'model':26} {'scheme':14} {'measure':8}" + "".join(f"{form:>10}" for form in forms))
    for name in options.models:
        path = find_model(name)
        for scheme in options.scheme or SCHEMES:
            row: dict[str, Any] = {"model": name, "scheme": scheme}
            for form in forms:
                recipe = FORMS[form].replace("SCHEME", SCHEMES[scheme])
                recipe += f", quantize{{{SCHEMES[scheme]}}}, lower"
                with tempfile.TemporaryDirectory(prefix="bitfold-bench-") as folder:
                    file = Path(folder) / "model.onnx"
                    convert(path, file, passes=recipe, verify="fast")
                    row["measure"], row[form] = distance(path, file, options.limit)
            rows.append(row)
            figures = "".join(f"{row[form]:10.4f}" for form in forms)
            print(f"{name:26} {scheme:14} {row['measure']:8}{figures}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": describe_machine(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
