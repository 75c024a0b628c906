"""Duplicate channels: give a space more of them without changing what the model computes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import input_at
from bitfold.passes.analysis.spaces.space import Space
from bitfold.passes.analysis.spaces.trace import Trace, dims_of, varying
from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import constant, new_initializer, set_input
from bitfold.passes.transform.grow_limits import stored_axis, sums_up

_Use = tuple[ir.Node, int]


@dataclass(frozen=True)
class Growth:
    """A space, and how many channels each of its channels becomes.

    Attributes:
        counts: int [size], from 1 on.
    """

    space: Space
    counts: np.ndarray


def grow(model: ir.Model, trace: Trace, growths: Iterable[Growth], context: Context) -> None:
    """Duplicate channels of spaces that ``why_not_grow`` has nothing against.

    A copy is written by the same rows, biases and gains, and is the same number; what reads k
    copies has its column in k equal shares, so that their sum is what it was.  Copies lie beside
    their original: halves of a value stay halves, whatever is fused with it stays in its place.
    """
    counts = np.ones(trace.count, int)
    for growth in growths:
        ids = growth.space.coordinates
        counts[ids.ids] = growth.counts[ids.place]
    for value, plans in _by_value(trace, counts).items():
        groups: dict[object, list[_Use]] = defaultdict(list)
        for use, plan in plans.items():
            groups[plan.treatment()].append(use)
        everyone = {tuple(use) for use in value.uses()}
        original = constant(value)
        assert original is not None, "ports are of constants"
        for members in groups.values():
            array = plans[members[0]].apply(original)
            if set(members) == everyone and not value.is_graph_output():
                value.const_value = context.tensor(array, str(value.name))
                value.shape = ir.Shape(array.shape)
            else:
                name = f"{value.name}/{members[0][0].name}"
                copy = new_initializer(model.graph, context, array, name)
                for node, index in members:
                    node.replace_input_with(index, copy)
            for node, _ in members:
                if node.op_type == "Transpose":  # of a weight: no channels flow through it
                    order = node.attributes.get_ints("perm", tuple(range(array.ndim))[::-1])
                    node.outputs[0].shape = ir.Shape([array.shape[axis] for axis in order])
    _resize(model, trace, counts, context)


@dataclass
class _Plan:
    """What becomes of one use of a parameter: copies along some axes, shares along others."""

    counts: dict[int, np.ndarray] = field(default_factory=dict)
    shares: dict[int, np.ndarray] = field(default_factory=dict)

    def treatment(self) -> object:
        """Equal for uses that are changed alike."""
        found = [sorted((a, c.tobytes()) for a, c in each.items()) for each in self._parts()]
        return tuple(map(tuple, found))

    def _parts(self) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
        return self.counts, self.shares

    def apply(self, array: np.ndarray) -> np.ndarray:
        for axis, counts in self.counts.items():
            array = np.repeat(array, counts, axis)
        for axis, counts in self.shares.items():
            dims = [-1 if each == axis else 1 for each in range(array.ndim)]
            share = 1 / np.repeat(counts, counts).reshape(dims)
            array = (array * share).astype(array.dtype)
        return array


def _by_value(trace: Trace, counts: np.ndarray) -> dict[ir.Value, dict[_Use, _Plan]]:
    found: dict[ir.Value, dict[_Use, _Plan]] = defaultdict(lambda: defaultdict(_Plan))
    for port in trace.ports:
        mine = counts[port.ids].reshape(-1)
        if (mine > 1).any():
            value = port.node.inputs[port.index]
            assert value is not None, "ports are of inputs that are there"
            plan = found[value][port.node, port.index]
            axis = stored_axis(port)
            assert axis is not None, "such spaces are refused"
            plan.counts[axis] = mine
            if sums_up(port):
                plan.shares[axis] = mine
    return found


def _resize(model: ir.Model, trace: Trace, counts: np.ndarray, context: Context) -> None:
    """Give values their new shapes, and operators the sizes that they are told."""
    touched: dict[ir.Node, None] = {}
    for value, ids in trace.at.items():
        mine = counts[ids]
        if (mine > 1).any():
            (axis,) = varying(ids)
            dims = list(value.shape or ())
            dims[axis] = int(mine.sum())
            value.shape = ir.Shape(dims)
            node = value.producer()
            if node is not None:
                touched[node] = None
    for node in touched:
        if node.op_type == "Conv" and node.attributes.get_int("group", 1) > 1:
            channels = node.outputs[0].shape
            assert channels is not None, "given above"
            groups = channels[1]
            assert isinstance(groups, int), "given above"
            node.attributes["group"] = ir.AttrInt64("group", groups)
        target = constant(input_at(node, 1)) if node.op_type == "Reshape" else None
        made = trace.ids(node.outputs[0])
        if target is not None and made is not None:
            (axis,) = varying(made)
            if target[axis] > 0:
                sizes = np.array(target)
                sizes[axis] = counts[made].sum()
                set_input(node, 1, sizes, context, "grown")
        if node.op_type == "Split" and _cuts_channels(node, trace):
            axis = node.attributes.get_int("axis", 0)
            parts = np.array([(dims_of(value) or [])[axis] for value in node.outputs], np.int64)
            node.attributes.pop("num_outputs", None)
            node.resize_inputs(2)
            told = new_initializer(model.graph, context, parts, f"{node.outputs[0].name}/sizes")
            node.replace_input_with(1, told)


def _cuts_channels(node: ir.Node, trace: Trace) -> bool:
    ids = trace.ids(node.inputs[0])
    return ids is not None and ids.shape[node.attributes.get_int("axis", 0)] > 1
