"""Cut a graph before its sites: which values must be kept so that the rest can be run later."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

import onnx_ir as ir

from bitfold.passes.analysis.reads import read_by


class Levels:
    """How many sites lie, one behind the other, before each value of a graph.

    The graph is cut at each level: behind everything that needs no site of that level, and before
    those sites.  What is alive at a cut, and the weights, are enough to compute all that comes
    later: what is computed from weights alone is as large as they are, and is not kept.

    Args:
        graph: sorted; nodes of its subgraphs belong to the node that holds them.
        sites: nodes of the graph to cut before.
    """

    def __init__(self, graph: ir.Graph, sites: Collection[ir.Node]) -> None:
        chosen = set(sites)
        self.of_site: dict[ir.Node, int] = {}
        level: dict[ir.Value, int] = {}
        last: dict[ir.Value, int] = {}
        fixed: set[ir.Value] = set()
        for node in graph:
            if node not in chosen and _is_fixed(node, fixed):
                fixed.update(node.outputs)
                continue
            read = [value for value in read_by(node) if value in level]
            own = max((level[value] for value in read), default=0)
            if node in chosen:
                self.of_site[node] = own
            for value in read:
                # A site runs behind its cut: what it reads is alive there.
                last[value] = max(last.get(value, 0), own + (node in chosen))
            for value in node.outputs:
                level[value] = own + (node in chosen)
        self._levels = {str(value.name): own for value, own in level.items()}
        self.count = 1 + max(self.of_site.values(), default=-1)
        self._born: defaultdict[int, list[str]] = defaultdict(list)
        self._dies: dict[str, int] = {}
        for value, born in level.items():
            if last.get(value, 0) > born:
                self._born[born].append(str(value.name))
                self._dies[str(value.name)] = last[value]

    def of_value(self, name: str) -> int:
        """Sites before a value; none before what the graph is given."""
        return self._levels.get(name, 0)

    def born(self, cut: int) -> list[str]:
        """Names of the values that are first alive at a cut."""
        return self._born[cut]

    def dead(self, cut: int, names: Collection[str]) -> list[str]:
        """Those of ``names`` that nothing behind a cut reads."""
        return [name for name in names if self._dies[name] <= cut]


def _is_fixed(node: ir.Node, fixed: Collection[ir.Value]) -> bool:
    """Whether a node gives the same for all inputs of the graph."""
    return not node.op_type.startswith("Random") and all(
        value in fixed or (value.is_initializer() and not value.is_graph_input())
        for value in read_by(node)
    )
