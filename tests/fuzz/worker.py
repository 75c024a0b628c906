"""Put broken models through import, inspect and convert, one after the other, as told on stdin.

Each line of stdin is a number; each line of stdout is the JSON of what came of it.  A crash takes
this process alone with it: the parent sees which number it was.
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]

import onnxruntime as ort  # noqa: E402
from mutate import mutate  # noqa: E402
from seeds import SEEDS, Files  # noqa: E402

from bitfold.frontend.convert import convert  # noqa: E402
from bitfold.frontend.inspection import inspect  # noqa: E402
from bitfold.runtime.errors import BitfoldError  # noqa: E402

MEMORY = 12 << 30
"""Address space of a worker in bytes: what asks for more fails as on a small machine."""

PASSES = {"low_bit": "canonicalize"}
"""What is run on a seed that quantize refuses."""

SELDOM = {"gguf": 0.2}
"""Share of a seed's turns that it takes: this one is slow."""


def make_case(number: int, seeds: dict[str, Files]) -> tuple[str, Files]:
    """Which seed case ``number`` breaks, and its broken files; the same whenever it is asked."""
    rng = random.Random(number)
    name = rng.choice(list(seeds))
    if rng.random() > SELDOM.get(name, 1.0):
        name = rng.choice([each for each in seeds if each not in SELDOM])
    files = dict(seeds[name])
    names = list(files)
    # The weights of external data seldom matter; their length does.
    victim = names[1] if len(names) > 1 and rng.random() < 0.2 else names[0]
    files[victim] = mutate(files[victim], rng, victim.endswith(".onnx"))
    return name, files


def run_case(number: int, seeds: dict[str, Files]) -> dict[str, Any]:
    """What came of one case: ``converted``, ``refused`` or, which is a fault, anything else."""
    name, files = make_case(number, seeds)
    result: dict[str, Any] = {"number": number, "seed": name}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        source, out = Path(place, "in"), Path(place, "out")
        source.mkdir()
        out.mkdir()
        for file, content in files.items():
            (source / file).write_bytes(content)
        path = source / next(iter(files))
        try:
            recipe = {"passes": PASSES[name]} if name in PASSES else {"preset": "w8a8"}
            report = inspect(path, **recipe)
            if "fault of the pass" in report.plan_error:
                result.update(outcome="fault", error=report.plan_error)
            convert(path, out / "q.onnx", seed=0, **recipe)
            result.setdefault("outcome", "converted")
        except BitfoldError as error:
            fault = type(error) is BitfoldError or "fault of" in error.hint
            if fault or "outcome" not in result:
                result.update(
                    outcome="fault" if fault else "refused",
                    error=f"{type(error).__name__}: {error}",
                )
            if fault:
                result["trace"] = traceback.format_exc()
            left = [each.name for each in out.iterdir()]
            if left:
                result.update(outcome="fault", error=f"left {left} behind")
        except MemoryError:
            result.update(outcome="memory", error="MemoryError", trace=traceback.format_exc())
        except Exception as error:
            result.update(
                outcome="traceback",
                error=f"{type(error).__name__}: {error}",
                trace=traceback.format_exc(),
            )
    return result


def main() -> None:
    """Serve cases until stdin ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    ort.set_default_logger_severity(4)
    # Libraries may print; the answers have a channel of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    seeds = {make.__name__: make() for make in SEEDS}
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(run_case(int(line), seeds)), file=answers, flush=True)


if __name__ == "__main__":
    main()
