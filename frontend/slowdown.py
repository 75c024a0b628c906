"""Whether a result is slower than the float model on this machine, told without much ado.

It may well be: targets without bitfold's operators run many sites as float after decoding them.
"""

from __future__ import annotations

import onnx_ir as ir

from bitfold.frontend.timing import time_briefly
from bitfold.passes.core.context import Feeds
from bitfold.passes.core.recipe import Recipe
from bitfold.passes.lower.lower import Lower
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.errors import BitfoldError
from bitfold.runtime.execution import open_session
from bitfold.runtime.op_library import op_library_path
from bitfold.runtime.ops import DOMAIN

BUDGET = 1.0
"""Seconds that the runs may take in turns; a float model that needs longer for one is not timed."""

LARGEST = 1 << 30
"""Bytes of weights of the largest float model that is timed: ORT copies them to run at its best."""

SLOWER = 1.1
"""A result that takes less than so many times the float model's time is not called slower."""


def relative_time(original: ir.Model, result: ir.Model, feeds: Feeds) -> float | None:
    """Time of a run of ``result`` over that of ``original``, each as ORT runs it at its best.

    Returns:
        None where nothing is told: the float model is large or slow, ORT does not run it as it is,
        or bitfold's operators would run as function bodies, for want of the op library.
    """
    weights = (value.const_value for value in original.graph.initializers.values())
    if sum(weight.nbytes for weight in weights if weight is not None) > LARGEST:
        return None
    try:
        if DOMAIN in result.graph.opset_imports:
            op_library_path()
        sessions = {
            name: open_session(model, spin=True)
            for name, model in (("float", original), ("result", result))
        }
        seconds = time_briefly(sessions, feeds, BUDGET)
    except BitfoldError:
        return None
    return None if seconds is None else seconds["result"] / seconds["float"]


def slower_note(relative: float | None, recipe: Recipe, keep_fastest: bool) -> str:
    """What to tell the user of the time, and what to try; empty where it is no slower.

    Args:
        relative: see `relative_time`.
        recipe: what made the result.
        keep_fastest: whether the fastest alternatives were looked for.
    """
    if relative is None or relative < SLOWER:
        return ""
    lower = next((item for item in recipe if isinstance(item, Lower)), None)
    quantizes = any(isinstance(item, Quantize) for item in recipe)
    tries = ["--keep-fastest"] if quantizes and lower is not None and not keep_fastest else []
    if lower is not None and lower.target != "native":
        tries.append("--target native")
    told = f"{relative:.1f} times slower than float here, on the first sample"
    return f"{told}; try {' or '.join(tries)}" if tries else told
