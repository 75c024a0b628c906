"""Export torch modules with either of torch's exporters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

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
) -> Path:
    """Write a module as ONNX.

    Args:
        exporter: one of `EXPORTERS`.
        inputs: example inputs by the names they shall have, in order.
        outputs: names of the outputs.
        axes: names of the dynamic axes of each input.
    """
    common = {"input_names": list(inputs), "output_names": outputs}
    arguments = tuple(inputs.values())
    if exporter == "torchscript":
        torch.onnx.export(
            module, arguments, path, dynamo=False, opset_version=17, dynamic_axes=axes, **common
        )
        return path
    names = {name for each in axes.values() for name in each.values()}
    dims = {name: torch.export.Dim(name, min=2 if name == "sequence" else 1) for name in names}
    shapes = [{axis: dims[name] for axis, name in axes.get(i, {}).items()} for i in inputs]
    torch.onnx.export(
        module,
        arguments,
        path,
        dynamo=True,
        opset_version=23,
        dynamic_shapes=tuple(shapes),
        verbose=False,
        **common,
    )
    return path
