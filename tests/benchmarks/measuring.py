"""What benchmarks of whole models share: inputs, conversions in processes of their own, scores.

Run as a program, it converts one model and prints what that took: see :func:`converted`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from bitfold.frontend.convert import convert  # noqa: E402
from bitfold.frontend.evaluate import evaluate  # noqa: E402
from bitfold.frontend.feeds import load_feeds  # noqa: E402
from bitfold.frontend.machine import describe_machine  # noqa: E402
from bitfold.frontend.sources import TRAINED, find_model  # noqa: E402
from bitfold.frontend.tasks import Setting, find_task, task_of  # noqa: E402
from bitfold.models.catalogue import fetch_entry  # noqa: E402
from bitfold.models.lee_background import CALIBRATION, ENTRY, read_text  # noqa: E402
from bitfold.models.trained import calibration_text  # noqa: E402
from bitfold.passes.core.context import Feeds  # noqa: E402
from bitfold.passes.core.report import Report  # noqa: E402
from bitfold.runtime.session import Session  # noqa: E402

EVERY = 0.02
"""Seconds between two looks at a process's memory."""


@dataclass(frozen=True)
class Conversion:
    """What a conversion in a process of its own took.

    Attributes:
        seconds: of the processor, on all cores; a clock would count other work, too.
        bits: stored bits a weight of the matmuls and convolutions, with scales and what is beside.
        peak_anonymous: the most memory of its own that the process had, in bytes.
        peak_resident: the same with the files that it had mapped and read.
    """

    seconds: float
    bits: float
    peak_anonymous: int = 0
    peak_resident: int = 0


def inputs_to_calibrate(model: str, path: Path, count: int) -> list[Feeds]:
    """``count`` sets of inputs to take statistics from, at most.

    A language model reads the first 45,000 bytes of a news text, 512 tokens a set (the small
    trained one a text of its own); others get the last half, at most, of their task's inputs.

    Args:
        model: its name or file.
        path: its file.
    """
    session = Session(path)
    task = task_of(session)
    if task not in (None, "", "text-generation"):
        feeds = find_task(task).feeds(session, Setting())
        return feeds[-min(count, len(feeds) // 2) :]
    with tempfile.TemporaryDirectory(prefix="bitfold-bench-") as folder:
        text = Path(folder) / "calibration.txt"
        news = model != TRAINED
        found = read_text(fetch_entry(ENTRY), CALIBRATION) if news else calibration_text()
        text.write_text(found, "utf-8")
        return load_feeds(text, path)[:count]


def converted(model: str, source: Path, file: Path, recipe: str, calibration: int) -> Conversion:
    """Convert a model to ``file`` in a process of its own, and watch that.

    Args:
        model: its name in the catalogue, or its file: says what it reads.
        source: the file to convert: the model's, or one made of it.
        calibration: sets of inputs to take statistics from, at most; 0 for none.

    Raises:
        RuntimeError: the conversion failed; the message is its last line.
    """
    command = [sys.executable, __file__, model, str(source), str(file), recipe, str(calibration)]
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=printed, stderr=errors)
        anonymous = resident = 0
        while process.poll() is None:
            memory = memory_of(process.pid)
            anonymous = max(anonymous, memory.get("RssAnon", 0))
            resident = max(resident, memory.get("VmHWM", 0))
            time.sleep(EVERY)
        printed.seek(0)
        errors.seek(0)
        if process.returncode:
            raise RuntimeError((errors.read().strip().splitlines() or ["it failed"])[-1])
        found = json.loads(printed.read().splitlines()[-1])
    return Conversion(**{**found, "peak_anonymous": anonymous, "peak_resident": resident})


def memory_of(process: int) -> dict[str, int]:
    """Bytes of memory of a process by Linux's names for them; empty elsewhere, or at its end."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    words = [line.split() for line in lines if line.startswith(("RssAnon", "VmHWM"))]
    return {name.rstrip(":"): int(count) * 1024 for name, count, _ in words}


def stored_by(report: Report) -> tuple[int, int]:
    """Bytes that the weights of matmuls and convolutions take, and how many weights they are."""
    sites = [
        site
        for each in report.passes
        for site in each.sites
        if site.kind != "gather" and site.bytes_after
    ]
    return sum(each.bytes_after for each in sites), sum(each.rows * each.columns for each in sites)


def distance(model: Path, made: Path, limit: int) -> tuple[str, float]:
    """What a model made of ``model`` is measured by, and the figure.

    Language models: mean KL over the second half of ``limit`` chunks of 512 tokens of a news text;
    others: mean cosine of the first output, over four times as many of their task's inputs.
    """
    task = task_of(Session(model))
    if task in (None, "", "text-generation"):
        score = evaluate(made, model, chunks=limit).score
        assert score is not None
        assert score.kl is not None
        return "KL", score.kl
    found = evaluate(made, model, task=task, limit=4 * limit).task
    assert found is not None
    return "cosine", next(iter(found.outputs.values())).cosine


class Rows:
    """Results by name, in a file that is written whenever one comes: a stopped run can go on."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.found: dict[str, dict[str, Any]] = {}
        if file is not None and file.exists():
            self.found = json.loads(file.read_text())["rows"]

    def get(self, name: str, **setting: Any) -> dict[str, Any] | None:
        """The result of that name, if there is one of just that setting."""
        row = self.found.get(name)
        same = row is not None and all(row.get(key) == value for key, value in setting.items())
        return row if same else None

    def put(self, name: str, row: dict[str, Any]) -> None:
        """Keep a result; the file is whole at any moment."""
        self.found[name] = row
        if self.file is not None:
            part = self.file.with_suffix(".part")
            part.write_text(
                json.dumps({"machine": describe_machine(), "rows": self.found}, indent=1)
            )
            os.replace(part, self.file)


def main(arguments: Sequence[str]) -> None:
    """Convert, and print a :class:`Conversion` as a line of JSON."""
    model, source, file, recipe, count = arguments
    feeds = inputs_to_calibrate(model, find_model(model), int(count)) if int(count) else []
    start = time.process_time()
    done = convert(source, file, passes=recipe, calibration=feeds, verify="off", force=True)
    seconds = time.process_time() - start
    stored, weights = stored_by(done.report)
    print(json.dumps(asdict(Conversion(seconds, 8 * stored / max(weights, 1)))))


if __name__ == "__main__":
    main(sys.argv[1:])
