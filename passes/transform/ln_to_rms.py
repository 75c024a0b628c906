"""``ln-to-rms``: make LayerNorms RMSNorms, by leaving out the mean that they subtract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import input_at
from bitfold.passes.analysis.spaces.borders import Entry, Inside, insert_entry, inside
from bitfold.passes.analysis.spaces.find_spaces import find_spaces
from bitfold.passes.analysis.spaces.space import Held, Space
from bitfold.passes.analysis.spaces.symmetry import CENTER
from bitfold.passes.analysis.spaces.trace import Kind, Role, Trace
from bitfold.passes.analysis.spaces.trace_model import trace_model
from bitfold.passes.core.base import Pass, Promise
from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import constant, shared_initializer
from bitfold.passes.core.words import counted
from bitfold.passes.transform.change import Center, change_space, owners_of_shared

LAYER_NORM = "LayerNormalization"


@dataclass(frozen=True)
class LnToRms(Pass):
    """Subtract the mean from what writes a space instead of from what each LayerNorm reads.

    Where all that is added to a residual stream has mean 0 over the channels, the stream has too,
    and a LayerNorm on it is an RMSNorm: weights lose the mean over their outputs, biases and
    tables theirs.  RMSNorms are cheaper, and rotations pass through them.  Pre-RMSNorm, Jiang et
    al., arXiv 2305.14858.  (Their CRMSNorm also drops one channel of the now redundant d; d - 1
    channels fit neither groups nor tiles nor Hadamard matrices, which costs more than it saves.)

    1. Every reader of the space has to be a LayerNorm over all of its channels: a linear op that
       reads the stream itself, an RMSNorm or an output of the model sees the mean.
    2. What writes the space has to be linear.  The output of anything else, such as a GELU, and
       a row of a table that others read too are centered as the model runs, for at most
       ``borders`` values and fewer than there are norms.
    3. A LayerNorm that another norm's gain writes to (post-norm) stays: that gain would have to
       be a matrix.
    4. A LayerNorm whose statistics are read stays.
    5. Its bias becomes an Add; ``fold-norm-gain`` in front of this pass folds it.

    Attributes:
        borders: values of a space that may be centered as the model runs.
        copy_limit: elements; a weight that others read too is copied up to here.
    """

    name: ClassVar[str] = "ln-to-rms"
    promise: ClassVar[Promise] = Promise.EXACT

    borders: int = 1
    copy_limit: int = 4096

    def run(self, model: ir.Model, context: Context) -> bool:
        norms = [n for n in model.graph if n.op_type == LAYER_NORM and n.domain == ""]
        if not norms:
            return False
        reasons = dict.fromkeys(norms, "its input is no space of channels that is known")
        made: list[ir.Node] = []
        trace = trace_model(model)
        for space in find_spaces(trace, CENTER):
            readers = [held for held in space.held if _normalizes(held)]
            if not readers:
                continue
            found = self._plan(model, trace, space, readers)
            if isinstance(found, str):
                reasons.update((held.port.op, found) for held in readers)
                continue
            change_space(found.space, Center(), context)
            for entry in found.entries:
                insert_entry(entry, _centered(model, entry, context))
            made += [held.port.op for held in readers]
            online = f", {found.borders} as the model runs" if found.borders else ""
            context.entry.changed(
                space.name,
                f"{counted(len(found.space.writers) + found.borders, 'writer')} centered{online}",
            )
        for norm in norms:
            if norm in made:
                _to_rms(model, norm)
                context.entry.changed(str(norm.name), "now an RMSNorm")
            else:
                context.entry.skipped(str(norm.name), reasons[norm])
        return bool(made)

    def _plan(
        self, model: ir.Model, trace: Trace, space: Space, readers: list[Held]
    ) -> Inside | str:
        for held in readers:
            reason = _not_whole(held, space)
            if reason:
                return reason
        if space.states:
            return f"{space.states[0].state.given.name} holds its input from run to run"
        shared = owners_of_shared(space, Center(), self.copy_limit)
        reason = space.why_not(CENTER) or next(iter(shared.values()), "")
        found = inside(model, trace, space, CENTER, shared)
        if isinstance(found, str):
            return reason or found
        if found.exits:
            return _blame(space, found.exits[0].uses, reason)
        if found.borders > min(self.borders, len(readers) - 1):
            return (
                f"{reason}: {counted(found.borders, 'value')} to center as the model runs, for "
                f"{counted(len(readers), 'norm')}"
            )
        return found


def _normalizes(held: Held) -> bool:
    port = held.port
    return port.kind is Kind.GAIN and port.role is Role.READ and port.op.op_type == LAYER_NORM


def _not_whole(held: Held, space: Space) -> str:
    norm = held.port.op
    if any(output.uses() or output.is_graph_output() for output in norm.outputs[1:]):
        return "its mean or its variance is read"
    counts = np.bincount(held.place[held.place >= 0], minlength=space.size)
    # Of rows side by side (merged patches) it subtracts the mean of all, not each one's own.
    if np.any(held.block != held.block[0]) or np.any(counts != 1):
        return "it normalizes channels of several spaces, or of several rows, together"
    return ""


def _blame(space: Space, uses: tuple[tuple[ir.Node, int], ...], reason: str) -> str:
    """Why the space cannot be centered, by what reads its mean."""
    readers = {node for node, _ in uses}
    for lost, node, text in space.limits:
        if lost & CENTER and node in readers:
            return f"{node.op_type} {node.name} {text}, mean and all"
    return reason


def _centered(model: ir.Model, entry: Entry, context: Context) -> list[ir.Node]:
    value = entry.value
    last = shared_initializer(model.graph, context, np.array([-1]), "bitfold.last_axis")
    name = f"{value.name}/centered"
    mean = ir.node("ReduceMean", [value, last], {"keepdims": 1}, name=f"{name}/mean")
    mean.outputs[0].name, mean.outputs[0].type = f"{name}/mean", value.type
    if value.shape is not None:
        mean.outputs[0].shape = ir.Shape([*value.shape[:-1], 1])
    rest = ir.node("Sub", [value, mean.outputs[0]], name=name)
    rest.outputs[0].name = name
    rest.outputs[0].type, rest.outputs[0].shape = value.type, value.shape
    return [mean, rest]


def _to_rms(model: ir.Model, norm: ir.Node) -> None:
    output, bias = norm.outputs[0], input_at(norm, 2)
    kept = {name: a for name, a in norm.attributes.items() if a.type != ir.AttributeType.UNDEFINED}
    rms = ir.Node("", "RMSNormalization", norm.inputs[:2], kept.values(), name=norm.name)
    result = rms.outputs[0]
    result.type, result.shape = output.type, output.shape
    added = [rms]
    array = constant(bias)
    if bias is not None and (array is None or np.any(array)):
        add = ir.node("Add", [result, bias], name=f"{norm.name}/bias")
        add.outputs[0].type, add.outputs[0].shape = output.type, output.shape
        result.name = f"{output.name}/normalized"
        result = add.outputs[0]
        added.append(add)
    result.name = output.name
    model.graph.insert_after(norm, added)
    output.replace_all_uses_with(result, replace_graph_outputs=True)
    model.graph.remove(norm, safe=True)
