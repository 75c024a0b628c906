"""Every exact pass on a model, alone and together: outputs stay the same up to float rounding.

Passes that ask whether a change pays are asked at schemes of so few bits that it mostly does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from bitfold.frontend.importers import import_model
from bitfold.frontend.inspection import PREPARED
from bitfold.frontend.task_samples import task_samples
from bitfold.frontend.text_samples import text_samples
from bitfold.passes.core.context import Context, Feeds
from bitfold.passes.core.pipeline import Pipeline
from bitfold.passes.core.recipe import Recipe
from bitfold.passes.core.report import Report

_INT4 = "weights=int4 acts=int4 act_granularity=token"
_INT3 = "weights=int3 group=128"

ALONE = {
    "fold-norm-gain": "fold-norm-gain",
    "ln-to-rms": "ln-to-rms",
    "rotate": "rotate",
    "rotate online": "rotate{spaces=[] online=*}",
    "rotate-learned": f"rotate-learned{{{_INT4} steps=3 tries=2}}",
    "smooth": f"smooth{{{_INT4}}}",
    "awq-scale": f"awq-scale{{{_INT3}}}",
    "scale-pairs": "scale-pairs{bits=2}",
    "equalize": "equalize{data_free=true}",
    "reparam-ln": f"reparam-ln{{{_INT4}}}",
    "fp-bias": f"fp-bias{{{_INT4}}}",
    "split": f"split{{{_INT4} budget=0.1}}",
    "permute": "permute{weights=int4 acts=int4}",
    "hada-conv": "hada-conv{weights=int4 acts=int8}",
    "merge-siblings": "merge-siblings",
    "fuse-swiglu": "merge-siblings, fuse-swiglu",
    "fuse-attention": "fuse-attention",
    "fuse-skip-norm": "fuse-skip-norm",
}
"""Each exact pass by itself; ``fuse-swiglu`` needs the two projections in one."""

_SCALED = [ALONE[name] for name in ("equalize", "reparam-ln", "scale-pairs", "smooth", "awq-scale")]
_MOVED = [ALONE[name] for name in ("fp-bias", "split", "permute", "hada-conv")]
_FUSED = ["merge-siblings", "fuse-swiglu", "fuse-attention", "fuse-skip-norm"]
_TURNED = ["fold-norm-gain", "ln-to-rms", "rotate{online=*}"]

TOGETHER = {
    "ln-to-rms behind gains": "fold-norm-gain, ln-to-rms",
    "rotated": ", ".join([*_TURNED, *_FUSED]),
    "all": ", ".join([*_SCALED, *_MOVED, *_TURNED, *_FUSED]),
}
"""What belongs together, and all exact passes in one recipe."""

RECIPES = {**ALONE, **TOGETHER}

QUIETEST = 95.0
"""Decibels of signal over noise that float32 leaves of the deepest model with all passes."""


def samples_of(path: Path, model: ir.Model) -> Sequence[Feeds]:
    """Real inputs of a model of the catalogue: a text, or inputs of its task."""
    found = text_samples(model, path.parent / "tokenizer.json")
    return found or task_samples(model, path, lambda text, fraction: None)


def canonical(path: Path, samples: Sequence[Feeds] = ()) -> tuple[ir.Model, Sequence[Feeds]]:
    """A model in the form that other passes work on, and the inputs that it was checked on."""
    model = import_model(path)
    with Context(samples or samples_of(path, model)) as context:
        made, _ = run_exact(model, PREPARED, context)
        return made, context.samples


def run_exact(model: ir.Model, recipe: str, context: Context) -> tuple[ir.Model, Report]:
    """Run exact passes, each checked on all samples; they must keep their promise."""
    made, report = Pipeline(Recipe.of(recipe), context, verify="full", strict=True).run(model)
    assert report.total is not None
    assert report.total.sqnr_db >= QUIETEST, report.total
    return made, report


def changed_by(report: Report) -> list[str]:
    """The passes that changed something."""
    return [entry.name for entry in report.passes if entry.status == "applied"]
