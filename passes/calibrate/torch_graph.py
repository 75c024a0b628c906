"""Run what lies before some values of a float graph in torch, so that there are gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from bitfold.passes.core.rewire import constant
from bitfold.runtime.errors import UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor

Given = list[Any]
"""A node's inputs: tensors, and None for those that are left out."""


def torch() -> Any:
    """The torch package.

    Raises:
        UnsupportedError: it is not installed.
    """
    try:
        import torch
    except ImportError:
        raise UnsupportedError(
            "distilling inputs needs gradients, and the package torch",
            "pip install 'bitfold[torch]', or use --calibration random",
        ) from None
    return torch


class TorchGraph:
    """The nodes before some values of a graph, to be run on tensors.

    Args:
        graph: sorted; of float convolutional networks: see ``OPERATORS``.
        wanted: values of the graph.

    Raises:
        UnsupportedError: torch is not installed, or an operator is none that is known here.
    """

    def __init__(self, graph: ir.Graph, wanted: Sequence[ir.Value]) -> None:
        self.torch = torch()
        self.wanted = list(wanted)
        needed = _before(self.wanted)
        self.nodes = [node for node in graph if node in needed]
        for node in self.nodes:
            if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
                raise UnsupportedError(
                    f"no gradient through {node.op_type} {node.name or node.outputs[0].name}: "
                    f"expected {', '.join(sorted(OPERATORS))}",
                    "use --calibration random, or give inputs with --calibration",
                )
        self.constants: dict[ir.Value, Tensor] = {}
        for node in self.nodes:
            for value in node.inputs:
                array = constant(value)
                if value is not None and array is not None:
                    self.constants[value] = self.torch.from_numpy(np.array(array))

    def run(self, feeds: dict[ir.Value, Tensor]) -> list[Tensor]:
        """The wanted values, from the graph's inputs."""
        known = {**self.constants, **feeds}
        for node in self.nodes:
            given = [None if value is None else known[value] for value in node.inputs]
            known[node.outputs[0]] = OPERATORS[node.op_type](node, given)
        return [known[value] for value in self.wanted]


def _before(values: Sequence[ir.Value]) -> set[ir.Node]:
    pending, found = list(values), set()
    while pending:
        node = pending.pop().producer()
        if node is not None and node not in found:
            found.add(node)
            pending += [value for value in node.inputs if value is not None]
    return found


def _padded(node: ir.Node, x: Any, kernel: Sequence[int], fill: float) -> Any:
    """What a convolution or pool slides over."""
    rank = len(kernel)
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    pads = list(node.attributes.get_ints("pads", (0,) * 2 * rank))
    if auto.startswith("SAME"):
        steps, reach = strides(node, rank), dilations(node, rank)
        for axis in range(rank):
            size = x.shape[2 + axis]
            span = (kernel[axis] - 1) * reach[axis] + 1
            count = max(0, (-(-size // steps[axis]) - 1) * steps[axis] + span - size)
            small, large = count // 2, count - count // 2
            upper = auto == "SAME_UPPER"
            pads[axis], pads[rank + axis] = (small, large) if upper else (large, small)
    if not any(pads):
        return x
    ends = [pad for axis in reversed(range(rank)) for pad in (pads[axis], pads[rank + axis])]
    return torch().nn.functional.pad(x, ends, value=fill)


def strides(node: ir.Node, rank: int) -> list[int]:
    return list(node.attributes.get_ints("strides", (1,) * rank))


def dilations(node: ir.Node, rank: int) -> list[int]:
    return list(node.attributes.get_ints("dilations", (1,) * rank))


def _conv(node: ir.Node, given: Given) -> Any:
    x, weight, bias = [*given, None][:3]
    rank = weight.ndim - 2
    functional = torch().nn.functional
    slide = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[rank]
    x = _padded(node, x, weight.shape[2:], 0.0)
    groups = node.attributes.get_int("group", 1)
    return slide(x, weight, bias, strides(node, rank), 0, dilations(node, rank), groups)


def _batch_norm(node: ir.Node, given: Given) -> Any:
    x, gain, bias, mean, variance = given
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    return torch().nn.functional.batch_norm(x, mean, variance, gain, bias, False, 0.0, epsilon)


def _pool(node: ir.Node, given: Given) -> Any:
    kernel = list(node.attributes.get_ints("kernel_shape", ()))
    ceil = node.attributes.get_int("ceil_mode", 0) != 0
    if len(kernel) != 2 or ceil or dilations(node, 2) != [1, 1]:
        raise UnsupportedError(f"no gradient through {node.op_type} {node.name} of this kind")
    functional, steps = torch().nn.functional, strides(node, 2)
    if node.op_type == "MaxPool":
        return functional.max_pool2d(_padded(node, given[0], kernel, -np.inf), kernel, steps)
    mean = functional.avg_pool2d(_padded(node, given[0], kernel, 0.0), kernel, steps)
    if node.attributes.get_int("count_include_pad", 0):
        return mean
    ones = _padded(node, torch().ones_like(given[0]), kernel, 0.0)
    return mean / functional.avg_pool2d(ones, kernel, steps)


def _clip(node: ir.Node, given: Given) -> Any:
    x, low, high = [*given, None, None][:3]
    return torch().clamp(x, low, high)


def _gemm(node: ir.Node, given: Given) -> Any:
    a, b, c = [*given, None][:3]
    a = a.T if node.attributes.get_int("transA", 0) else a
    b = b.T if node.attributes.get_int("transB", 0) else b
    product = node.attributes.get_float("alpha", 1.0) * (a @ b)
    return product if c is None else product + node.attributes.get_float("beta", 1.0) * c


def _reshape(node: ir.Node, given: Given) -> Any:
    x, shape = given
    dims = [int(each) for each in shape]
    if not node.attributes.get_int("allowzero", 0):
        dims = [x.shape[axis] if dim == 0 else dim for axis, dim in enumerate(dims)]
    return x.reshape(dims)


def _pad(node: ir.Node, given: Given) -> Any:
    x, pads, fill = [*given, None][:3]
    mode = node.attributes.get_string("mode", "constant")
    if mode != "constant" or len(given) > 3 or pads is None:
        raise UnsupportedError(f"no gradient through Pad {node.name} of this kind")
    counts = [int(each) for each in pads]
    half = len(counts) // 2
    ends = [
        count for axis in reversed(range(half)) for count in (counts[axis], counts[half + axis])
    ]
    return torch().nn.functional.pad(x, ends, value=0.0 if fill is None else float(fill))


OPERATORS: dict[str, Callable[[ir.Node, Given], Any]] = {
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "Gemm": _gemm,
    "Relu": lambda node, given: given[0].relu(),
    "Sigmoid": lambda node, given: given[0].sigmoid(),
    "HardSigmoid": lambda node, given: (
        node.attributes.get_float("alpha", 0.2) * given[0] + node.attributes.get_float("beta", 0.5)
    ).clamp(0, 1),
    "HardSwish": lambda node, given: given[0] * (given[0] / 6 + 0.5).clamp(0, 1),
    "Clip": _clip,
    "Add": lambda node, given: given[0] + given[1],
    "Mul": lambda node, given: given[0] * given[1],
    "GlobalAveragePool": lambda node, given: given[0].mean(
        tuple(range(2, given[0].ndim)), keepdim=True
    ),
    "AveragePool": _pool,
    "MaxPool": _pool,
    "Concat": lambda node, given: torch().cat(given, node.attributes.get_int("axis", 0)),
    "Flatten": lambda node, given: given[0].flatten(node.attributes.get_int("axis", 1)),
    "Reshape": _reshape,
    "Pad": _pad,
    "Identity": lambda node, given: given[0],
}
"""What each operator that it knows gives, from the node and its inputs."""
