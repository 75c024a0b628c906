"""Rotations that begin and end at a border: Hadamard matrices as the model runs."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from bitfold.passes.analysis.spaces.borders import Inside, insert_entry, insert_exit, inside
from bitfold.passes.analysis.spaces.find_spaces import find_spaces
from bitfold.passes.analysis.spaces.space import Space
from bitfold.passes.analysis.spaces.symmetry import ROTATE
from bitfold.passes.analysis.spaces.trace import Trace
from bitfold.passes.analysis.spaces.trace_model import trace_model
from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import set_input, shared_initializer, vector
from bitfold.passes.core.words import counted
from bitfold.passes.transform.change import Change, owners_of_shared
from bitfold.passes.transform.online import hadamard_node
from bitfold.passes.transform.rotation import RandomizedHadamard

RMS_NORM = "RMSNormalization"


def trace_joined(model: ir.Model) -> Trace:
    """The coordinates of a model whose tied weights are to be rotated as one.

    Where a norm's gain keeps the stream in front of it from what is behind, but both hold one
    weight (an embedding that is the head, too), a norm between two Hadamard matrices makes them
    one space.
    """
    trace = trace_model(model)
    spaces = find_spaces(trace, ROTATE)
    weights = [_weights(space) for space in spaces]
    joined: set[ir.Node] = set()
    for space, mine in zip(spaces, weights, strict=True):
        norms = {n for lost, n, _ in space.limits if lost & ROTATE and n and n.op_type == RMS_NORM}
        for norm in norms:
            given = trace.ids(norm.outputs[0])
            for other, theirs in zip(spaces, weights, strict=True):
                if given is None or other is space or not mine & theirs:
                    continue
                if (other.coordinates.of(given)[0] >= 0).any():
                    joined.add(norm)
    return trace_model(model, joined) if joined else trace


def find_inside(
    model: ir.Model, trace: Trace, space: Space, change: Change, copy_limit: int, borders: int
) -> Inside | str:
    """What of a space can be rotated, or why nothing can.

    Args:
        copy_limit: elements; a weight that others read too is copied up to here.
        borders: values that may be turned as the model runs, and fewer than are read.
    """
    shared = owners_of_shared(space, change, copy_limit)
    met = (n for n in trace.joined if _meets(trace, space, n.inputs[0]))
    found = inside(model, trace, space, ROTATE, [*shared, *met])
    reason = space.why_not(ROTATE) or next(iter(shared.values()), "it is read unrotated")
    if isinstance(found, str):
        return reason
    read = {held.port.op.inputs[0] for held in found.space.readers}
    if found.borders > min(borders, max(0, len(read) - 1)):
        return reason if not borders else f"{reason} ({counted(found.borders, 'border')} to cross)"
    return found


def turn_borders(
    model: ir.Model, found: Inside, rotation: RandomizedHadamard, context: Context
) -> None:
    """Turn what crosses the borders of a rotated space.

    The matrix is ``diag(signs) H``.  An RMSNorm lets signs through: on either side of one they
    are multiplied into its gain, and twice is not at all.
    """
    flipped: Counter[ir.Node] = Counter()
    for leaving in found.exits:
        value = leaving.value
        name = f"{value.name}/unrotated"
        nodes = [hadamard_node(model, value, rotation.size, name, context, inverse=True)]
        norms = {n for n, index in leaving.uses if index == 0 and _has_gain(n, rotation)}
        if not leaving.output and all(n in norms for n, _ in leaving.uses):
            flipped.update(norms)
        else:
            nodes.append(_signed(model, nodes[-1].outputs[0], rotation, f"{name}/signed", context))
        insert_exit(model, leaving, nodes)
    for entry in found.entries:
        value, producer = entry.value, entry.value.producer()
        name = f"{value.name}/rotated"
        nodes = []
        alone = not entry.unchanged and not entry.output
        if alone and producer is not None and _has_gain(producer, rotation):
            flipped[producer] += 1
        else:
            nodes.append(_signed(model, value, rotation, f"{name}/signed", context))
            value = nodes[-1].outputs[0]
        nodes.append(hadamard_node(model, value, rotation.size, name, context))
        insert_entry(entry, nodes)
    for norm, times in flipped.items():
        gain = vector(norm.inputs[1], len(rotation.signs))
        if times % 2 and gain is not None:
            set_input(norm, 1, gain * rotation.signs.astype(gain.dtype), context, "signed")


def _weights(space: Space) -> set[ir.Value]:
    held = [*space.writers, *space.readers]
    return {v for v in (each.port.node.inputs[each.port.index] for each in held) if v is not None}


def _meets(trace: Trace, space: Space, value: ir.Value | None) -> bool:
    ids = trace.ids(value)
    return ids is not None and bool((space.coordinates.of(ids)[0] >= 0).any())


def _has_gain(node: ir.Node, rotation: RandomizedHadamard) -> bool:
    """Whether it is an RMSNorm with a gain for each channel of the last axis."""
    if node.op_type != RMS_NORM or vector(node.inputs[1], len(rotation.signs)) is None:
        return False
    return not any(output.uses() for output in node.outputs[1:])


def _signed(
    model: ir.Model, value: ir.Value, rotation: RandomizedHadamard, name: str, context: Context
) -> ir.Node:
    signs = rotation.signs
    if value.dtype is not None:
        signs = signs.astype(value.dtype.numpy())
    factors = shared_initializer(model.graph, context, signs, f"{name}/signs")
    node = ir.node("Mul", [value, factors], name=name)
    output = node.outputs[0]
    output.name, output.type, output.shape = name, value.type, value.shape
    return node
