"""Time by operator, from a profile that ONNX Runtime writes."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from bitfold.passes.core.context import Feeds
from bitfold.runtime.errors import BitfoldError
from bitfold.runtime.model_header import read_header
from bitfold.runtime.op_library import op_library_path
from bitfold.runtime.ops import DOMAIN
from bitfold.runtime.ort_errors import explained

RUNS, BUDGET = 5, 3.0
"""Runs in a profile, after one to warm up, unless they take more seconds than this together."""


def op_times(path: Path, feeds: Feeds, *, threads: int = 0, runs: int = RUNS) -> dict[str, float]:
    """Seconds that each operator takes in the fastest of a few runs, with ORT's optimizations on.

    Operators are named as ORT ran them, without a domain: fused ones by the names of the
    fusions, the bodies of functions by what they are made of.

    Args:
        path: an ``.onnx`` file.
        feeds: one set of inputs.
        threads: threads inside an operator; 0 lets ORT choose.
        runs: runs to choose from.

    Raises:
        BitfoldError: ORT refuses the model or its inputs.
    """
    with tempfile.TemporaryDirectory(prefix="bitfold-") as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if DOMAIN in read_header(path).opsets:
            # Where the library is not built, the function bodies run instead.
            with contextlib.suppress(BitfoldError):
                options.register_custom_ops_library(str(op_library_path()))
        try:
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            arrays = {name: np.asarray(array) for name, array in feeds.items()}
            session.run(None, arrays)
            started = time.perf_counter()
            for _ in range(runs):
                session.run(None, arrays)
                if time.perf_counter() - started > BUDGET:
                    break
            events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
        except Exception as error:
            raise explained(error, f"{path.name} cannot be profiled") from error
    return fastest_run(events, skip=1)


def fastest_run(events: list[dict[str, Any]], skip: int = 0) -> dict[str, float]:
    """Seconds by operator in the fastest run of a profile (a Chrome trace of ORT's events).

    Args:
        events: the profile.
        skip: how many runs to leave out at the start.
    """
    runs = [event for event in events if event.get("name") == "model_run"][skip:]
    if not runs:
        return {}
    best = min(runs, key=lambda event: event["dur"])
    start, end = best["ts"], best["ts"] + best["dur"]
    times: Counter[str] = Counter()
    for event in events:
        if not str(event.get("name", "")).endswith("_kernel_time"):
            continue
        if start <= event["ts"] <= end:
            times[str(event.get("args", {}).get("op_name", "?"))] += event["dur"]
    return {name: micros / 1e6 for name, micros in times.items()}
