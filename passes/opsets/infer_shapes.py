"""onnx's shape inference on the graph as it is, without its complaints on the terminal."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
import onnx_ir.passes.common as common

_LOGGERS = ("onnx_ir", "onnxscript")


def infer_shapes(model: ir.Model) -> None:
    """Fill in the types and shapes that can be inferred; where nothing can be, nothing changes.

    Exporters compute shapes (Concat of Shape): data propagation follows them.  A node that
    inference does not know or finds wrong is passed over, and so are those behind it.
    """
    with quiet():
        common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the log messages of the libraries underneath off the terminal for a while."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
