"""Images that a network's BatchNormalizations take for those that it was trained on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from bitfold.passes.calibrate.torch_graph import TorchGraph
from bitfold.passes.core.context import Feeds
from bitfold.passes.core.rewire import constant
from bitfold.runtime.errors import UnsupportedError

IMAGES, STEPS = 16, 200
"""Images that are distilled, and steps of gradient descent."""

RATE = 0.1
"""How far a pixel moves in a step, at the start."""

SIDE = 224
"""Height and width where the model has none of its own."""


def distill(
    model: ir.Model,
    *,
    images: int = IMAGES,
    steps: int = STEPS,
    seed: int = 0,
    progress: Callable[[str, float], None] = lambda text, fraction: None,
) -> list[Feeds]:
    """Sets of inputs, an image each, for a convolutional network with BatchNormalizations.

    These keep the mean and the variance that each channel had in training.  Noise becomes images
    by gradient descent (Adam) until the channels before every BatchNormalization have them too, and
    the pixels a mean of 0 and a variance of 1 (ZeroQ: Cai et al., arXiv 2001.00281, section 3.1).
    Distances count in units of the channel's own deviation, so that no layer is drowned by those of
    large values.

    Args:
        model: float, with one input [batch, channels, height, width].

    Raises:
        UnsupportedError: it has no such input or no BatchNormalization, an operator before them
            has no gradient here, or torch is not installed.
    """
    given = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    norms = [node for node in model.graph if _is_trained(node)]
    if len(given) != 1 or given[0].dtype != ir.DataType.FLOAT or not norms:
        raise UnsupportedError(
            "nothing tells what the images look like: expected one float input and "
            f"BatchNormalizations, found {len(given)} inputs and {len(norms)} of these",
            "use --calibration random, or fold-batch-norm after this",
        )
    shape = _shape(given[0], images)
    graph = TorchGraph(model.graph, [node.inputs[0] for node in norms])  # type: ignore[misc]
    torch = graph.torch
    wanted = [
        [torch.from_numpy(np.array(constant(node.inputs[place]))) for place in (3, 4)]
        for node in norms
    ]
    start = np.random.default_rng([seed, *b"distill"]).standard_normal(shape).astype(np.float32)
    x = torch.from_numpy(start).requires_grad_()
    adam = torch.optim.Adam([x], RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for step in range(steps):
        adam.zero_grad()
        loss = _distance(x, torch.zeros(1), torch.ones(1), (0, 1, 2, 3))
        for found, (mean, variance) in zip(graph.run({given[0]: x}), wanted, strict=True):
            axes = (0, *range(2, found.ndim))
            loss = loss + _distance(found, mean, variance, axes)
        loss.backward()
        adam.step()
        schedule.step()
        progress(
            f"distilling images: {float(loss.detach()) / len(norms):.3g} a layer", step / steps
        )
    made = x.detach().numpy()
    return [{str(given[0].name): made[index : index + 1]} for index in range(len(made))]


def _distance(x, mean, variance, axes):  # type: ignore[no-untyped-def]
    """How far the channels' means and deviations are from those wanted, in the latter's units."""
    wanted = (variance + 1e-6).sqrt()
    found = (x.var(axes, unbiased=False) + 1e-6).sqrt()
    return ((x.mean(axes) - mean) / wanted).square().mean() + (found / wanted - 1).square().mean()


def _is_trained(node: ir.Node) -> bool:
    if node.op_type != "BatchNormalization" or node.attributes.get_int("training_mode", 0) != 0:
        return False
    return all(constant(value) is not None for value in node.inputs[1:])


def _shape(value: ir.Value, images: int) -> list[int]:
    dims = [] if value.shape is None else list(value.shape)
    if len(dims) != 4 or not isinstance(dims[1], int) or (isinstance(dims[0], int) and dims[0] > 1):
        raise UnsupportedError(
            f"input {value.name!r}: expected [batch, channels, height, width], found {value.shape}"
        )
    return [images, dims[1], *(dim if isinstance(dim, int) else SIDE for dim in dims[2:])]
