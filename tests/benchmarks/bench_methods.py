"""Every quantizer on one language model: errors, time and memory, beside rounding to nearest.

Run from anywhere::

    python tests/benchmarks/bench_methods.py [MODEL] [--method gptq ...] [--json out.json]

With ``--json`` each result is kept as it comes, and a run that was stopped goes on; ``--markdown``
prints what is kept as a table.

``layer error`` is the mean over twelve matmuls, on inputs that statistics were not taken from, of
what rounding moves in a layer's outputs (see ``layer_errors.py``); ``KL`` is the whole model's mean
over chunks of 512 tokens of a news text, or ``cosine`` that of an encoder's output.  ``x`` is how
many times that of rounding to nearest it is, at as many stored bits a weight: between two widths
the logarithm is interpolated.  Methods for inputs and attention have what they are compared with
beside them.  Seconds, of the processor on all cores, and memory are those of a process that does
nothing but quantize the model, behind the exact passes, and write it: ``own`` is what it allocates,
``with files`` also what it reads of mapped weights.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from benchmarks.layer_errors import Layers  # noqa: E402
from benchmarks.measuring import (  # noqa: E402
    Rows,
    converted,
    distance,
    inputs_to_calibrate,
)
from benchmarks.method_rows import NEAREST, PLAIN, ROWS, Row  # noqa: E402

from bitfold.frontend.convert import convert  # noqa: E402
from bitfold.frontend.importers import import_model  # noqa: E402
from bitfold.frontend.sources import find_model  # noqa: E402
from bitfold.runtime.errors import BitfoldError  # noqa: E402

HEAD = (
    f"{'method':34} {'bits':>5} {'layer error':>11} {'x':>5}  {'measure':7} {'figure':>8} {'x':>5} "
    f"{'seconds':>8} {'own MB':>7} {'with files':>10}"
)


class Bench:
    """Measures rows on one model."""

    def __init__(self, model: str, samples: int, chunks: int, rows: Rows, folder: Path) -> None:
        self.model = model
        self.folder = folder
        self.samples = samples
        self.chunks = chunks
        self.rows = rows
        self._layers: Layers | None = None

    def layers(self) -> Layers:
        """Some of the model's matmuls, in its own coordinates."""
        if self._layers is None:
            path = find_model(self.model)
            feeds = inputs_to_calibrate(self.model, path, self.samples)
            self._layers = Layers(import_model(self.prepared(PLAIN)), feeds)
        return self._layers

    def nearest(self, symmetric: bool) -> None:
        """Have the layer errors of rounding to nearest at every width."""
        for number in NEAREST[0 if symmetric else 1 :]:
            zeros = "true" if symmetric else "false"
            recipe = f"quantize{{weights={number} symmetric={zeros} acts=none}}"
            name = f"nearest, {number}, symmetric={zeros}"
            if self.rows.get(name, recipe=recipe) is None:
                found = self.layers().error(recipe)
                figures = {"layer_error": found.error, "bits": found.bits}
                self.rows.put(name, {"recipe": recipe, "kind": "nearest", **figures})

    def measured(self, row: Row, part: str) -> dict[str, Any]:
        """The figures of a row, with those of a part measured unless they are known.

        Args:
            part: one of the row's.
        """
        setting: dict[str, Any] = {"recipe": row.recipe, "samples": self.samples}
        setting |= {"model": row.model or self.model, "chunks": self.chunks}
        figures = self.rows.get(row.name, **setting) or {**setting, "kind": row.kind}
        if part == "layers" and "layer_error" not in figures:
            found = self.layers().error(row.quantize)
            figures |= {"layer_error": found.error, "bits": found.bits}
            self.rows.put(row.name, figures)
        elif part == "model" and "figure" not in figures:
            figures |= self._whole(row, setting["model"])
            self.rows.put(row.name, figures)
        return figures

    def _whole(self, row: Row, model: str) -> dict[str, Any]:
        path, recipe = find_model(model), row.recipe
        with tempfile.TemporaryDirectory(prefix="bitfold-bench-") as folder:
            source = path
            if row.quantize:
                source, recipe = self.prepared(row.before), f"{row.quantize}, lower"
            file = Path(folder) / "model.onnx"
            samples = self.samples if row.calibrated else 0
            took = converted(model, source, file, recipe, samples)
            measure, figure = distance(path, file, self.chunks)
        return {
            **({"bits": took.bits} if took.bits else {}),
            "measure": measure,
            "figure": figure,
            "seconds": took.seconds,
            "peak_anonymous": took.peak_anonymous,
            "peak_resident": took.peak_resident,
        }

    def prepared(self, before: str) -> Path:
        """The model behind the exact passes, which run once for all rows that share them."""
        name = f"prepared{sorted({row.before for row in ROWS}).index(before)}"
        file = self.folder / name / "model.onnx"
        if not file.exists():
            file.parent.mkdir(parents=True)
            convert(find_model(self.model), file, passes=before, verify="off")
        return file


def against(row: Row, found: dict[str, Any], rows: Rows, what: str) -> float | None:
    """How many times a figure of a row is that of what it is compared with; None if unknown.

    Args:
        what: ``layer_error`` or ``figure``; of a cosine, what it lacks to 1 is compared.
    """
    if what not in found:
        return None
    mine = _loss(found, what)
    if row.against:
        other = rows.found.get(row.against)
        return mine / _loss(other, what) if other is not None and what in other else None
    if row.kind != "weights":
        return None
    symmetric = not row.zero_points
    names = [f"nearest, {number}, symmetric={str(symmetric).lower()}" for number in NEAREST]
    if what == "figure":
        names = [each.name for each in ROWS if each.nearest and each.zero_points == row.zero_points]
    points = sorted(
        (rows.found[name]["bits"], _loss(rows.found[name], what))
        for name in names
        if what in rows.found.get(name, {})
    )
    theirs = interpolated(points, found["bits"])
    return mine / theirs if theirs else None


def interpolated(points: Sequence[tuple[float, float]], bits: float) -> float | None:
    """A loss at ``bits``, its logarithm on the line between the points on both sides of that."""
    for (low, more), (high, less) in pairwise(points):
        if low - 1e-6 <= bits <= high + 1e-6:
            share = (bits - low) / (high - low)
            return math.exp((1 - share) * math.log(more) + share * math.log(less))
    return None


def _loss(found: dict[str, Any], what: str) -> float:
    value = float(found[what])
    return 1 - value if what == "figure" and found["measure"] == "cosine" else value


def line(row: Row, found: dict[str, Any], rows: Rows) -> str:
    """A row as text, under ``HEAD``."""

    def shown(value: float | None, width: int, form: str) -> str:
        return " " * width if value is None else f"{value:{width}{form}}"

    layer, times = found.get("layer_error"), against(row, found, rows, "layer_error")
    text = f"{row.name:34} {shown(found.get('bits'), 5, '.2f')} {shown(layer, 11, '.5f')} "
    text += f"{shown(times, 5, '.2f')}  {found.get('measure', ''):7} "
    text += f"{shown(found.get('figure'), 8, '.4f')} "
    text += f"{shown(against(row, found, rows, 'figure'), 5, '.2f')} "
    megabytes = [found[key] / 1e6 if key in found else None for key in PEAKS]
    text += f"{shown(found.get('seconds'), 8, '.1f')} {shown(megabytes[0], 7, '.0f')} "
    return text + shown(megabytes[1], 10, ".0f")


PEAKS = ("peak_anonymous", "peak_resident")


def markdown(rows: Rows) -> str:
    """All that is known as a table."""
    lines = [
        "| method | bits | layer error (x) | KL, cosine (x) | CPU s | MB | paper; why no better |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        found = rows.found.get(row.name)
        if found is None:
            continue
        cells = [row.name, f"{found['bits']:.2f}" if "bits" in found else ""]
        source = row.paper
        for what, digits in (("layer_error", 5), ("figure", 4)):
            times = against(row, found, rows, what)
            if row.why and row.why not in source and times is not None and times > 1:
                source += f"; {row.why}"
            figure = f"{found[what]:.{digits}f}" if what in found else ""
            cells.append(figure + (f" ({times:.2f}x)" if times is not None else ""))
        cells.append(f"{found['seconds']:.0f}" if "seconds" in found else "")
        cells.append("/".join(f"{found[key] / 1e6:.0f}" for key in PEAKS if key in found))
        lines.append("| " + " | ".join([*cells, source]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="smollm2-135m")
    parser.add_argument("--method", action="append", help="rows with this in their names")
    parser.add_argument("--layers", action="store_true", help="measure no whole model")
    parser.add_argument("--samples", type=int, default=16, help="of 512 tokens, for statistics")
    parser.add_argument("--chunks", type=int, default=4, help="of 512 tokens that are scored")
    parser.add_argument("--json", type=Path, help="kept results: read, and written as they come")
    parser.add_argument("--markdown", action="store_true", help="measure nothing, print a table")
    options = parser.parse_args()
    rows = Rows(options.json)
    if options.markdown:
        print(markdown(rows))
        return
    chosen = [
        row
        for row in ROWS
        if not options.method or any(each in row.name for each in options.method)
    ]
    with tempfile.TemporaryDirectory(prefix="bitfold-bench-") as folder:
        bench = Bench(options.model, options.samples, options.chunks, rows, Path(folder))
        for zero_points in sorted({row.zero_points for row in chosen if row.kind == "weights"}):
            bench.nearest(not zero_points)
        print(HEAD)
        # What takes seconds comes first, and what takes minutes a row after that.
        for part in ("layers",) if options.layers else ("layers", "model"):
            for row in chosen:
                if part not in row.parts:
                    continue
                try:
                    print(line(row, bench.measured(row, part), rows), flush=True)
                except (BitfoldError, RuntimeError) as error:
                    print(f"{row.name:34} {error}", flush=True)


if __name__ == "__main__":
    main()
