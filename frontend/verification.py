"""``bitfold.verify``: how far a model's outputs are from a reference's."""

from __future__ import annotations

import os
from collections.abc import Sequence

import onnx_ir as ir
from onnx import ModelProto

from bitfold.frontend.importers import import_model
from bitfold.passes.core.context import Context, Feeds
from bitfold.passes.core.report import Divergence
from bitfold.passes.core.samples import prepare_samples
from bitfold.passes.core.stage import Stage
from bitfold.passes.core.stand_in import settle
from bitfold.passes.core.verify import verify_models
from bitfold.runtime.errors import naming

Source = str | os.PathLike[str] | ModelProto | ir.Model


def verify(
    reference: Source,
    candidate: Source,
    *,
    samples: Sequence[Feeds] = (),
    seed: int = 0,
) -> Divergence:
    """Run both models on the same inputs and measure how far the candidate's outputs moved.

    Args:
        reference: the model that is right, an ONNX or GGUF file or a model in memory.
        candidate: the model to check; it must have the reference's outputs.
        samples: inputs to run on; synthesized from the reference's graph where none are given.
        seed: decides the synthesized inputs.

    Raises:
        ModelError, UnsupportedError: one of the models is broken or does not run.
            The message names the file.
        CalibrationError: a sample does not fit the model.
        VerificationError: the candidate lacks outputs that the reference has.
    """
    first, second = import_model(reference), import_model(candidate)
    with Context(samples, seed=seed) as context:
        names = (_name_of(reference, "the reference"), _name_of(candidate, "the candidate"))
        stage = Stage(first, ())
        with naming(names[0]):
            settle(stage, context)
            found = prepare_samples(first, context, stage.run)
        stage.close()
        return verify_models(first, second, found, names)


def _name_of(source: Source, role: str) -> str:
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else role
