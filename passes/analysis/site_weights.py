"""Give a site another weight, in the form that its graph stores it in."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import Site
from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import set_input


def set_site_weight(site: Site, weight: np.ndarray, context: Context) -> None:
    """Give a MatMul or Gemm a new weight [N, K], stored as the old one was.

    Whoever else reads the old weight keeps it.
    """
    stored = weight if site.out_first else weight.T
    if site.transpose is None:
        set_input(site.node, 1, stored, context)
        return
    if len(site.transpose.outputs[0].uses()) == 1:
        set_input(site.transpose, 0, stored, context)
        return
    # Others read the Transpose too: this reader gets a Transpose of its own.
    turned = ir.node("Transpose", [site.source], {"perm": [1, 0]}, name=f"{site.name}/transpose")
    turned.outputs[0].name = f"{site.name}/transpose"
    graph = site.node.graph
    assert isinstance(graph, ir.Graph)
    graph.insert_before(site.node, turned)
    site.node.replace_input_with(1, turned.outputs[0])
    set_input(turned, 0, stored, context)


def other_reader(site: Site) -> ir.Node | None:
    """A node besides the site that reads its weight, if there is one."""
    readers = [user for user, _ in site.source.uses() if user not in (site.node, site.transpose)]
    if site.transpose is not None:
        readers += [user for user, _ in site.transpose.outputs[0].uses() if user is not site.node]
    return readers[0] if readers else None
