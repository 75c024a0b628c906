"""What a report measures beside the passes: size and time by operator, divergence by depth."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from bitfold.frontend.emit import write_model
from bitfold.frontend.op_costs import op_costs
from bitfold.frontend.op_times import op_times
from bitfold.frontend.value_divergence import value_divergence
from bitfold.passes.core.context import Feeds
from bitfold.passes.core.report import PassEntry, Report
from bitfold.runtime.errors import BitfoldError
from bitfold.runtime.op_library import op_library_path
from bitfold.runtime.ops import DOMAIN

Progress = Callable[[str, float], None]

TIMES, VALUES = "times", "values"
"""What may be missing: the keys of `Report.unmeasured`."""

NOT_RUN = "nothing was run, since the conversion's checks were off"
NOT_REACHED = "the conversion ended before"
NO_LIBRARY = (
    "times are of function bodies: bitfold's op library is not here, so that ONNX Runtime ran "
    "what its operators mean, slowly"
)


class Reference:
    """Watches a pipeline, and keeps the model as it is before the first lossy pass.

    Exact passes scale and rotate what is inside a model; values further on can be compared with
    this one's, and not with the original's.
    """

    def __init__(self, original: ir.Model) -> None:
        self.model = original
        self._lossy = False

    def __call__(self, entry: PassEntry, model: ir.Model) -> None:
        """As a pipeline's `watch`."""
        self._lossy = self._lossy or entry.promise != "exact"
        if not self._lossy:
            self.model = model


def size_report(report: Report, original: ir.Model, result: ir.Model, missing: str) -> None:
    """Fill in the sizes, which need no run, and say why the rest is missing.

    Args:
        original: the model that was converted.
        result: what came out.
    """
    report.ops = op_costs(original, result)
    report.unmeasured = {TIMES: missing, VALUES: missing}


def measure_report(
    report: Report,
    original: ir.Model,
    reference: ir.Model,
    result: ir.Model,
    files: tuple[Path | None, Path | None],
    feeds: Feeds,
    progress: Progress = lambda text, fraction: None,
) -> None:
    """Fill in times by operator and divergence by depth; what cannot be had is told in the report.

    Args:
        original: the model that was converted.
        reference: the model before the first lossy pass.
        result: what came out.
        files: ONNX files of original and result; one that is missing is written for the while.
        feeds: the inputs to run.
    """
    report.unmeasured = {}
    try:
        progress("timing operators", 0.0)
        times = [
            _timed(model, file, feeds)
            for model, file in zip((original, result), files, strict=True)
        ]
        report.ops = op_costs(original, result, *times)
        if DOMAIN in result.graph.opset_imports and not _has_library():
            report.notes.append(NO_LIBRARY)
    except BitfoldError as error:
        report.unmeasured[TIMES] = str(error)
    try:
        report.values = value_divergence(reference, result, feeds, progress)
    except BitfoldError as error:
        report.unmeasured[VALUES] = str(error)
    if not report.values and VALUES not in report.unmeasured:
        report.unmeasured[VALUES] = "no value inside the result has the name of one before"


def _has_library() -> bool:
    try:
        op_library_path()
    except BitfoldError:
        return False
    return True


def _timed(model: ir.Model, file: Path | None, feeds: Feeds) -> dict[str, float]:
    if file is not None:
        return op_times(file, feeds)
    with tempfile.TemporaryDirectory(prefix="bitfold-") as folder:
        path = Path(folder) / "model.onnx"
        write_model(model, path)
        return op_times(path, feeds)
