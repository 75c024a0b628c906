"""Cut a site out of a model, with what follows it, as a model of its own."""

from __future__ import annotations

import onnx_ir as ir

from bitfold.passes.analysis.sites import Site, input_at, is_constant

MOST_FOLLOWERS = 3
"""Nodes after a site that go with it: a bias, an activation, a gate."""

FOLLOWERS = frozenset({"Add", "Mul", "Relu", "Clip", "HardSwish", "Sigmoid", "Gelu", "SwiGLU"})
"""What a target's operator may take in, and a runtime's optimizer may fuse."""


def cut_site(model: ir.Model, site: Site) -> ir.Model | None:
    """A model of one input, the site's; its weights are those of ``model``, shared.

    The nodes behind the site go with it, up to :data:`MOST_FOLLOWERS`, while each is the only
    reader of the one before and reads constants besides.

    Returns:
        The model; None where the site's weight or data lies outside of the main graph.
    """
    if site.node.graph is not model.graph:
        return None
    nodes = [*_before(site), site.node]
    last = site.node.outputs[0]
    while len(nodes) < 2 + MOST_FOLLOWERS:
        follower = _only_reader(last, model.graph)
        if follower is None or follower.op_type not in FOLLOWERS:
            break
        others = [value for value in follower.inputs if value is not None and value is not last]
        if not all(is_constant(value) for value in others):
            break
        nodes.append(follower)
        last = follower.outputs[0]
    data = site.data
    copies: dict[ir.Value, ir.Value] = {data: _copy(data)}
    weights: list[ir.Value] = []
    made: list[ir.Node] = []
    for node in nodes:
        for value in node.inputs:
            if value is not None and value not in copies:
                if not is_constant(value):
                    return None
                copies[value] = _copy(value)
                weights.append(copies[value])
        new = ir.Node(
            node.domain,
            node.op_type,
            [None if value is None else copies[value] for value in node.inputs],
            list(node.attributes.values()),
            overload=node.overload,
            num_outputs=len(node.outputs),
            name=node.name,
        )
        for old, output in zip(node.outputs, new.outputs, strict=True):
            output.name, output.type, output.shape = old.name, old.type, old.shape
            copies[old] = output
        made.append(new)
    graph = ir.Graph(
        [copies[data]],
        [copies[last]],
        nodes=made,
        initializers=weights,
        opset_imports=dict(model.graph.opset_imports),
        name="fragment",
    )
    functions = [
        function
        for key, function in model.functions.items()
        if any(node.op_identifier() == key for node in made)
    ]
    return ir.Model(graph, ir_version=model.ir_version or 10, functions=functions)


def _only_reader(value: ir.Value, graph: ir.Graph) -> ir.Node | None:
    readers = list(value.uses())
    alone = len(readers) == 1 and not value.is_graph_output()
    return readers[0].node if alone and readers[0].node.graph is graph else None


def _before(site: Site) -> list[ir.Node]:
    return [] if site.transpose is None else [site.transpose]


def _copy(value: ir.Value) -> ir.Value:
    return ir.Value(
        name=value.name, type=value.type, shape=value.shape, const_value=value.const_value
    )


def facts_of(site: Site, fragment: ir.Model) -> tuple[object, ...]:
    """What decides a fragment's time besides its input's shape: two alike take as long."""
    attributes = tuple(
        sorted((name, str(attribute.value)) for name, attribute in site.node.attributes.items())
    )
    kinds = tuple(node.op_type for node in fragment.graph)
    return (site.kind, site.shape, attributes, kinds, input_at(site.node, 2) is not None)
