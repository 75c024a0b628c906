"""``merge-siblings``: linear ops that read one tensor become one op and a Split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from bitfold.passes.analysis.sites import Site, site_of
from bitfold.passes.core.base import Pass, Promise
from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import bias_add, constant, new_initializer
from bitfold.passes.fuse.roles import gated_by, role
from bitfold.runtime.errors import RecipeError


@dataclass(frozen=True)
class MergeSiblings(Pass):
    """Merge MatMuls (or Gemms) of one input into one with weight [K, N1 + N2 + …], then Split.

    Query, key and value projections become one, and so do each gate and what it gates, apart from
    the others.  The order is query, key,
    value; gate before up; else that of the graph.  Values keep their names: they come from the
    Split.  Where only some of a group have a bias, the others get zeros.  Left alone, with the
    reason: a weight that something else reads too, or that is quantized already, and excluded
    sites: those keep their names, which is what later passes know them by.

    Attributes:
        max_group: the most ops to merge into one; 0 for any number.
        exclude: globs of site or weight names to leave as they are.
    """

    name: ClassVar[str] = "merge-siblings"
    promise: ClassVar[Promise] = Promise.EXACT

    max_group: int = 0
    exclude: tuple[str, ...] = ()

    def run(self, model: ir.Model, context: Context) -> bool:
        if self.max_group < 0 or self.max_group == 1:
            raise RecipeError(
                f"merge-siblings: expected max_group 0 or >= 2, found {self.max_group}"
            )
        groups: dict[tuple[ir.Value, str], list[_Member]] = {}
        for node in model.graph:
            site = site_of(node)
            if site is not None and site.kind in ("matmul", "gemm"):
                groups.setdefault((site.data, site.kind), []).append(_member(site))
        changed = False
        for members in groups.values():
            if len(members) < 2:
                continue
            usable = []
            for member in members:
                excluded = member.site.matches(self.exclude)
                reason = "excluded by the recipe" if excluded else _refusal(member)
                if reason:
                    context.entry.skipped(member.site.name, reason)
                else:
                    usable.append(member)
            parts = [self._cut(_ordered(part)) for part in _parted(usable)]
            for group in (group for part in parts for group in part):
                if len(group) < 2:
                    continue
                merged = _merge(model.graph, group, context)
                sizes = " + ".join(str(member.site.shape[0]) for member in group)
                names = ", ".join(member.site.name for member in group)
                context.entry.changed(merged, f"merges {names} ({sizes} outputs)")
                changed = True
        if changed:
            common.RemoveUnusedNodesPass()(model)
        return changed

    def _cut(self, members: list[_Member]) -> list[list[_Member]]:
        if not self.max_group:
            return [members]
        size = self.max_group
        return [members[start : start + size] for start in range(0, len(members), size)]


@dataclass(frozen=True)
class _Member:
    """One op of a group: its site, the value that its readers see, and the bias within."""

    site: Site
    output: ir.Value
    add: ir.Node | None
    bias: np.ndarray | None


def _member(site: Site) -> _Member:
    node = site.node
    if site.kind == "gemm":
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        return _Member(site, node.outputs[0], None, bias)
    found = bias_add(node)
    if found is not None:
        add, index = found
        bias = constant(add.inputs[index])
        if bias is not None and bias.shape == (site.shape[0],):
            return _Member(site, add.outputs[0], add, bias)
    return _Member(site, node.outputs[0], None, None)


def _refusal(member: _Member) -> str:
    site = member.site
    if site.quantized is not None:
        return "its weight is quantized already"
    if site.node.outputs[0].shape is None and site.kind == "matmul" and site.data.shape is None:
        return "the rank of its input is not known"
    others = [user for user, _ in site.source.uses() if user not in (site.node, site.transpose)]
    if site.transpose is not None:
        others += [u for u, _ in site.transpose.outputs[0].uses() if u is not site.node]
    if others:
        return f"{others[0].op_type} {others[0].name} reads its weight too: it would be copied"
    return ""


def _ordered(members: Sequence[_Member]) -> list[_Member]:
    """Query, key, value; gate, up; the rest after them, as the graph has them."""
    return sorted(members, key=lambda member: _rank(role(member.output)))


def _parted(members: Sequence[_Member]) -> list[list[_Member]]:
    """Each gate with what it is the gate of, and the others together.

    A pair of its own can become one SwiGLU; experts that read one tensor have many.
    """
    by_output = {member.output: member for member in members}
    pairs: list[list[_Member]] = []
    for member in members:
        other = gated_by(member.output)
        if other in by_output and other is not member.output:
            pairs.append([member, by_output[other]])
    paired = [member for pair in pairs for member in pair]
    if len({id(member) for member in paired}) < len(paired):
        return [list(members)]  # one value is gated twice: no way to part them
    rest = [member for member in members if not any(member is each for each in paired)]
    return [*pairs, rest]


def _rank(found: int | None) -> int:
    return 3 if found is None else found


def _merge(graph: ir.Graph, group: list[_Member], context: Context) -> str:
    """Replace the group's nodes and return the merged node's name."""
    first = group[0].site
    sizes = [member.site.shape[0] for member in group]
    weight = np.empty((first.shape[1], sum(sizes)), first.weight().dtype)
    start = 0
    for member, size in zip(group, sizes, strict=True):
        weight[:, start : start + size] = member.site.weight().T
        start += size
    name = _joined([member.site.name for member in group], "/")
    inputs: list[ir.Value | None] = [
        first.data,
        new_initializer(
            graph, context, weight, _joined([str(m.site.source.name) for m in group], ".")
        ),
    ]
    bias = _merged_bias(group, sizes, weight.dtype)
    del weight
    bias_value = new_initializer(graph, context, bias, f"{name}/bias") if bias is not None else None
    shape = first.data.shape
    wide = ir.Shape([*shape[:-1], sum(sizes)]) if shape is not None else None
    nodes: list[ir.Node] = []
    if first.kind == "gemm":
        nodes.append(ir.node("Gemm", [*inputs, bias_value] if bias_value else inputs, name=name))
    else:
        nodes.append(ir.node("MatMul", inputs, name=name))
        if bias_value is not None:
            nodes.append(ir.node("Add", [nodes[0].outputs[0], bias_value], name=f"{name}/bias"))
    for node in nodes:
        node.outputs[0].name = f"{node.name}_output_0"
        node.outputs[0].type, node.outputs[0].shape = group[0].output.type, wide
    split_sizes = new_initializer(graph, context, np.array(sizes, np.int64), f"{name}/sizes")
    split = ir.node(
        "Split",
        [nodes[-1].outputs[0], split_sizes],
        {"axis": -1},
        num_outputs=len(group),
        name=f"{name}/Split",
    )
    members = set()
    for member in group:
        members |= {member.site.node} | ({member.add} if member.add is not None else set())
    anchor = next(node for node in graph if node in members)
    graph.insert_before(anchor, [*nodes, split])
    ir.convenience.replace_nodes_and_values(
        graph,
        split,
        [node for member in group for node in (member.add, member.site.node) if node is not None],
        [],
        [member.output for member in group],
        list(split.outputs),
    )
    return name


def _merged_bias(group: list[_Member], sizes: list[int], dtype: np.dtype) -> np.ndarray | None:
    if all(member.bias is None for member in group):
        return None
    parts = [
        np.zeros(size, dtype) if member.bias is None else member.bias
        for member, size in zip(group, sizes, strict=True)
    ]
    return np.concatenate(parts)


def _joined(names: list[str], separator: str) -> str:
    """The names joined by ``+``, the later ones without the path that all share."""
    paths = [name.split(separator) for name in names]
    shared = 0
    while all(len(path) > shared + 1 and path[shared] == paths[0][shared] for path in paths):
        shared += 1
    return "+".join([names[0], *[separator.join(path[shared:]) for path in paths[1:]]])
