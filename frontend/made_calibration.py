"""Inputs to calibrate with where there are no data: what the model itself tells of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from bitfold.frontend.emit import write_model
from bitfold.frontend.made_kinds import Made
from bitfold.frontend.self_text import LENGTH, TEXTS, self_text
from bitfold.frontend.text_samples import causal_feeds, reads_text
from bitfold.frontend.text_tokenizer import TextTokenizer
from bitfold.passes.calibrate.distill import distill
from bitfold.passes.core.context import Feeds
from bitfold.passes.core.sample_sizes import Sizes
from bitfold.passes.core.samples import synthesize
from bitfold.runtime.errors import BitfoldError, UnsupportedError

UNPROVEN = "no real inputs were given: how accurate the result is on them is unproven"

SETS = 8
"""Sets of random inputs."""


@dataclass(frozen=True)
class MadeInputs:
    """Inputs that nobody gave.

    Attributes:
        feeds: the sets.
        origin: what they are, in words.
    """

    feeds: list[Feeds]
    origin: str


def made_calibration(
    kind: Made,
    model: ir.Model,
    file: Path | None,
    seed: int,
    progress: Callable[[str, float], None] = lambda text, fraction: None,
) -> MadeInputs:
    """Inputs of a model, made of nothing but the model.

    Args:
        kind: ``self`` for text that a language model writes, ``distilled`` for images to which
            BatchNormalizations answer as to those of training, ``random`` for what fits the inputs.
        model: as it was read, its BatchNormalizations not folded yet.
        file: where from, if from a file; a tokenizer may lie beside it.
        seed: the only source of randomness.

    Raises:
        UnsupportedError: the model is none of that kind.
    """
    if kind == "self":
        return MadeInputs(_text(model, file, seed, progress), "text that the model wrote")
    if kind == "distilled":
        feeds = distill(model, seed=seed, progress=progress)
        return MadeInputs(feeds, "images distilled from the model's BatchNormalizations")
    rng = np.random.default_rng([seed, *b"random calibration"])
    sizes = Sizes(1, 16, 0, image=224)
    feeds = [synthesize(model.graph, sizes, rng) for _ in range(SETS)]
    return MadeInputs(feeds, "random numbers")


def _text(
    model: ir.Model, file: Path | None, seed: int, progress: Callable[[str, float], None]
) -> list[Feeds]:
    if not reads_text(model) or "logits" not in {value.name for value in model.graph.outputs}:
        names = sorted(value.name or "" for value in model.graph.inputs)
        raise UnsupportedError(
            f"the model writes no text: its inputs are {', '.join(names)}",
            "use --calibration distilled or --calibration random",
        )
    first = None if file is None else _first_token(file.parent)
    with tempfile.TemporaryDirectory(prefix="bitfold-") as folder:
        path = file
        if path is None or path.suffix != ".onnx":
            path = Path(folder) / "model.onnx"
            write_model(model, path, progress=progress)
        size = {"texts": TEXTS, "length": LENGTH}
        ids = self_text(path, **size, seed=seed, first=first, progress=progress)
    return [causal_feeds(model, row[None], {}) for row in ids]


def _first_token(folder: Path) -> int | None:
    """The token that the model wants before a text, where a tokenizer says so."""
    try:
        tokenizer = TextTokenizer(folder)
    except BitfoldError:
        return None
    return tokenizer.bos_id if tokenizer.adds_bos else None
