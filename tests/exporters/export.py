"""Export torch modules with either of torch's exporters."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn

T = TypeVar("T")

EXPORTERS = ("torchscript", "dynamo")


def load_weights(module: nn.Module, weights: dict[str, np.ndarray]) -> None:
    """Put weights into a module; all of its own must be there, and nothing else."""
    module.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    module.eval()


def export(
    module: nn.Module,
    exporter: str,
    path: Path,
    inputs: dict[str, torch.Tensor],
    outputs: list[str],
    axes: dict[str, dict[int, str]],
    listed: int = 0,
) -> Path:
    """Write a module as ONNX.

    Args:
        exporter: one of `EXPORTERS`.
        inputs: example inputs by the names they shall have, in order.
        outputs: names of the outputs.
        axes: names of the dynamic axes of each input.
        listed: so many of the last inputs are the elements of one list to the module.
    """
    common = {"input_names": list(inputs), "output_names": outputs}
    arguments = _arguments(list(inputs.values()), listed)
    if exporter == "torchscript":
        torch.onnx.export(
            module, arguments, path, dynamo=False, opset_version=17, dynamic_axes=axes, **common
        )
        return path
    names = {name for each in axes.values() for name in each.values()}
    dims = {name: torch.export.Dim(name, min=2 if name == "sequence" else 0) for name in names}
    shapes = [{axis: dims[name] for axis, name in axes.get(i, {}).items()} for i in inputs]
    torch.onnx.export(
        module,
        arguments,
        path,
        dynamo=True,
        opset_version=23,
        dynamic_shapes=_arguments(shapes, listed),
        verbose=False,
        **common,
    )
    return path


def _arguments(each: list[T], listed: int) -> tuple[T | list[T], ...]:
    if not listed:
        return tuple(each)
    return *each[:-listed], each[-listed:]
