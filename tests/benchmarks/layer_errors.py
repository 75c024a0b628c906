"""A few matmuls of a model on their own, and how far a recipe moves what they give.

Each is taken out with the inputs that the float model gives it: from some of these a method takes
its statistics, on others the error is measured.  So it is the layer's alone, whatever came before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sampled_values import values_on
from bitfold.passes.analysis.sites import Site, find_sites
from bitfold.passes.core.context import Context, Feeds
from bitfold.passes.core.pipeline import Pipeline
from bitfold.runtime.execution import open_session


@dataclass(frozen=True)
class LayerError:
    """What a recipe does to the layers.

    Attributes:
        error: mean over the layers of ``|y' - y|^2 / |y|^2``, y [rows, N] the float outputs: for a
            weight's error dW that is ``tr(dW G dW^T) / tr(W G W^T)``, G the mean of ``x x^T``.
        bits: stored bits a weight, with scales and all that is beside.
    """

    error: float
    bits: float


class Layers:
    """Matmuls side by side in one model, each with an input of its own.

    Args:
        model: prepared as the weights are to be met; stays as it is.
        samples: inputs of the model; the last quarter is what errors are measured on.
        blocks: how many runs of ``per_block`` successive matmuls to take, evenly spread.
    """

    def __init__(
        self, model: ir.Model, samples: Sequence[Feeds], blocks: int = 3, per_block: int = 4
    ) -> None:
        sites = [each for each in find_sites(model) if each.kind == "matmul" and not _is_head(each)]
        count = len(sites) // per_block
        first = [per_block * (2 * block + 1) * count // (2 * blocks) for block in range(blocks)]
        starts = [start - start % per_block for start in first]
        chosen = [sites[start + place] for start in starts for place in range(per_block)]
        self.model = side_by_side(chosen)
        names = list(dict.fromkeys(str(site.data.name) for site in chosen))
        seen: list[dict[str, np.ndarray]] = [{} for _ in samples]
        for _, runs in values_on(model, names, samples):
            for kept, found in zip(seen, runs, strict=True):
                kept.update({name: np.array(array) for name, array in found.items()})
        feeds = [
            {f"x{place}": each[str(site.data.name)] for place, site in enumerate(chosen)}
            for each in seen
        ]
        held = max(1, len(feeds) // 4)
        self.calibration, self.measured = feeds[:-held], feeds[-held:]
        session = open_session(self.model, optimize=False)
        self.wanted = [session.run(each) for each in self.measured]

    def error(self, recipe: str) -> LayerError:
        """What a recipe, such as a ``quantize`` with its options, does to the layers."""
        with Context(calibration=self.calibration) as context:
            made, report = Pipeline(recipe, context, verify="off").run(self.model)
        session = open_session(made, optimize=False)
        lost: dict[str, float] = {}
        whole: dict[str, float] = {}
        for feeds, wanted in zip(self.measured, self.wanted, strict=True):
            for name, found in session.run(feeds).items():
                lost[name] = lost.get(name, 0.0) + _energy(found - wanted[name])
                whole[name] = whole.get(name, 0.0) + _energy(wanted[name])
        sites = [site for each in report.passes for site in each.sites]
        stored = sum(site.bytes_after for site in sites)
        bits = 8 * stored / max(sum(site.rows * site.columns for site in sites), 1)
        return LayerError(float(np.mean([lost[name] / whole[name] for name in lost])), bits)


def side_by_side(sites: Sequence[Site]) -> ir.Model:
    """A model of matmuls with the weights of ``sites``: inputs x0, x1, ..., outputs y0, y1, ..."""
    inputs, nodes, weights = [], [], []
    for place, site in enumerate(sites):
        n, k = site.shape
        array = np.ascontiguousarray(site.weight().T, np.float32)
        weight = ir.Value(name=f"w{place}", const_value=ir.tensor(array, name=f"w{place}"))
        weight.shape, weight.type = ir.Shape([k, n]), ir.TensorType(ir.DataType.FLOAT)
        data = _value(f"x{place}", ["batch", "rows", k])
        node = ir.node("MatMul", [data, weight], name=f"layer{place}")
        node.outputs[0].name = f"y{place}"
        node.outputs[0].shape = ir.Shape(["batch", "rows", n])
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        inputs.append(data)
        weights.append(weight)
        nodes.append(node)
    outputs = [node.outputs[0] for node in nodes]
    graph = ir.Graph(
        inputs, outputs, nodes=nodes, initializers=weights, opset_imports={"": 23}, name="layers"
    )
    return ir.Model(graph, ir_version=10)


def _value(name: str, shape: list[str | int]) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))


def _is_head(site: Site) -> bool:
    """Whether it gives the model's outputs: a vocabulary is no layer like the others."""
    return any(value.is_graph_output() for value in site.node.outputs)


def _energy(values: np.ndarray) -> float:
    return float(np.square(values, dtype=np.float64).sum())
