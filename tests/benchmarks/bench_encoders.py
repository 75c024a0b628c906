"""Time the catalogue's models against their float form and ONNX Runtime's quantize_dynamic.

Run from the repository's root::

    python tests/benchmarks/bench_encoders.py [MODEL ...] [--threads 2] [--json out.json]

Each model is converted with the presets, and by ``quantize_dynamic`` (int8, per channel).  All
take turns in one process, and what is compared is always of the same round: figures are medians,
ratios medians of the rounds' ratios.  A text encoder is timed on 16 x 128 and on 1 x 32 tokens of
its task's texts, any other model on one of its task's inputs.  The cosine to the float outputs is
the mean over the task's inputs, of the output that is furthest off.

On a machine with other work, ``--cpu`` (one thread) gives processor time: that of the process,
whatever else runs meanwhile.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from bitfold.frontend.convert import convert
from bitfold.frontend.machine import describe_machine
from bitfold.frontend.sources import find_model
from bitfold.frontend.tasks import Setting, find_task, task_of
from bitfold.frontend.tasks.measure import compare_each
from bitfold.passes.core.context import Feeds
from bitfold.runtime.errors import BitfoldError
from bitfold.runtime.op_library import op_library_path
from bitfold.runtime.session import Session

MODELS = ("all-minilm-l6-v2", "whisper-tiny.en-encoder", "whisper-tiny.en-decoder")
SHAPES = ((16, 128), (1, 32))
"""Rows and tokens of a text encoder's inputs."""

TEXT_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
DYNAMIC = "quantize_dynamic"
PAUSE_SECONDS = 0.03
"""Before each turn: the idle threads of the model before stop spinning in it."""


def candidates(path: Path, folder: Path, presets: list[str]) -> Iterator[tuple[str, Path]]:
    """Name and file of every form of a model, the float one first."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    yield "float", path
    target = folder / "dynamic.onnx"
    logging.disable(logging.WARNING)  # it asks for a preprocessing that changes nothing here
    try:
        quantize_dynamic(path, target, per_channel=True, weight_type=QuantType.QInt8)
        open_timed(target, 1)
        yield DYNAMIC, target
    except Exception as error:  # of any class, ours or not: it is a peer that fails
        print(f"  {DYNAMIC}: {' '.join(str(error).split())[:200]}")
    logging.disable(logging.NOTSET)
    for preset in presets:
        target = folder / f"{preset}.onnx"
        try:
            convert(path, target, preset=preset, verify="off")
        except BitfoldError as error:
            print(f"  {preset}: {error}")
            continue
        yield preset, target


def timed_inputs(samples: list[Feeds]) -> dict[str, Feeds]:
    """What a model is timed on, by name."""
    first = samples[0]
    if "input_ids" not in first or not set(first) <= TEXT_INPUTS:
        shape = max((array.shape for array in samples[-1].values()), key=np.prod)
        return {"x".join(map(str, shape)): samples[-1]}
    # The texts one after the other, cut into rows between the first text's end tokens.
    start, *_, end = (int(token) for token in first["input_ids"][0])
    words = [int(token) for each in samples for token in each["input_ids"].ravel()[1:-1]]
    return {
        f"{rows} x {tokens} tokens": _rows(first, words, rows, tokens, start, end)
        for rows, tokens in SHAPES
    }


def _rows(first: Feeds, words: list[int], rows: int, tokens: int, start: int, end: int) -> Feeds:
    inner = np.resize(np.array(words), (rows, tokens - 2))
    edge = np.ones((rows, 1), np.int64)
    ids = np.concatenate([start * edge, inner, end * edge], axis=1)
    given = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
    }
    return {name: given[name] for name in first}


def open_timed(path: Path, threads: int) -> ort.InferenceSession:
    """The session that is timed: what ORT does by itself, with bitfold's operators."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.register_custom_ops_library(str(op_library_path()))
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def time_rounds(
    sessions: dict[str, ort.InferenceSession], feeds: Feeds, options: argparse.Namespace
) -> dict[str, list[float]]:
    """Seconds of a run, one figure a round for each session, in turns."""
    clock = time.process_time if options.cpu else time.perf_counter
    names = {key: {each.name for each in run.get_inputs()} for key, run in sessions.items()}
    rounds: dict[str, list[float]] = {key: [] for key in sessions}
    for turn in range(options.rounds):
        order = list(sessions) if turn % 2 else list(sessions)[::-1]
        for key in order:
            given = {name: array for name, array in feeds.items() if name in names[key]}
            time.sleep(PAUSE_SECONDS)
            sessions[key].run(None, given)
            taken: list[float] = []
            while len(taken) < 3 or sum(taken) < options.seconds:
                begin = clock()
                sessions[key].run(None, given)
                taken.append(clock() - begin)
            rounds[key].append(min(taken) if options.cpu else statistics.median(taken))
    return rounds


def bench_model(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of the table for one model."""
    path = find_model(name)
    reference = Session(path, threads=options.threads)
    task = find_task(task_of(reference))
    samples = task.feeds(reference, Setting(options.samples, threads=options.threads))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bitfold-bench-") as folder:
        forms = dict(candidates(path, Path(folder), options.presets))
        cosines = {"float": 1.0}
        for form, file in forms.items():
            if form != "float":
                outputs = compare_each(Session(file, threads=options.threads), reference, samples)
                cosines[form] = min(each.cosine for each in outputs.values())
        sessions = {form: open_timed(file, options.threads) for form, file in forms.items()}
        for inputs, feeds in timed_inputs(samples).items():
            rounds = time_rounds(sessions, feeds, options)
            for form, seconds in rounds.items():
                ratios = {
                    f"vs {base}": statistics.median(
                        a / b for a, b in zip(rounds[base], seconds, strict=True)
                    )
                    for base in ("float", DYNAMIC)
                    if base in rounds
                }
                row = {"model": name, "inputs": inputs, "form": form, "cosine": cosines[form]}
                rows.append({**row, "ms": statistics.median(seconds) * 1e3, **ratios})
                show(rows[-1])
    return rows


def show(row: dict[str, Any]) -> None:
    """Print one row of the table."""
    ratios = [
        f"{row[f'vs {base}']:9.2f}x" if f"vs {base}" in row else f"{'-':>10}"
        for base in ("float", DYNAMIC)
    ]
    print(
        f"{row['model']:24} {row['inputs']:16} {row['form']:17} {row['ms']:9.2f} "
        f"{' '.join(ratios)} {row['cosine']:9.5f}",
        flush=True,
    )


def main() -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MODELS), help="names or ONNX files")
    parser.add_argument("--presets", nargs="*", default=["w8a8", "w4a8"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="for each model and round")
    parser.add_argument("--samples", type=int, default=16, help="the task's inputs for the cosine")
    parser.add_argument("--cpu", action="store_true", help="one thread, processor time")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.cpu:
        options.threads = 1
    facts = {**describe_machine(), "threads": options.threads, "rounds": options.rounds}
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    head = ("model", "inputs", "form", "ms", "vs float", "vs dynamic", "cosine")
    print("{:24} {:16} {:17} {:>9} {:>10} {:>10} {:>9}".format(*head))
    rows = [row for name in options.models for row in bench_model(name, options)]
    if options.json:
        options.json.write_text(json.dumps({"machine": facts, "results": rows}, indent=1))


if __name__ == "__main__":
    main()
