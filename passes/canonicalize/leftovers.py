"""Parts of raised operators that are left over: what looked like one, and why it is none."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from bitfold.passes.core.report import PassEntry

ARRANGING = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Cast", "Identity"})
REACH = 4


def report_leftovers(model: ir.Model, entry: PassEntry, kept: tuple[str, ...]) -> None:
    """Tell ``entry`` of what stayed in parts and was not told by a rule's refusal.

    1. A Softmax between two products is attention.
    2. An Erf is GELU's; a Sqrt of a mean of squares, a norm's.

    Args:
        kept: what the recipe asks to leave.
    """
    told = {note.site for note in entry.skips}
    for node in model.graph.all_nodes():
        for name, site, reason in _found(node):
            if name not in kept and site not in told:
                entry.skipped(site, reason)
                told.add(site)


def _found(node: ir.Node) -> Iterator[tuple[str, str, str]]:
    if node.domain != "":
        return
    site = str(node.outputs[0].name)
    if node.op_type == "Softmax":
        product = _reader(node, "MatMul")
        if product is not None:
            yield "attention", str(product.outputs[0].name), _attention(node)
    elif node.op_type == "Erf":
        yield "gelu", site, "not raised to Gelu: its Erf is not between GELU's constants"
    elif node.op_type == "Sqrt" and _comes_from(node, "ReduceMean"):
        yield "rms-norm", site, "not raised to a norm: its root of a mean is used in another way"


def _attention(softmax: ir.Node) -> str:
    """Why the attention around this Softmax was not raised, as far as its scores tell."""
    between: list[str] = []
    node: ir.Node | None = softmax
    while node is not None and len(between) <= REACH:
        source = node.inputs[0]
        node = source.producer() if source is not None else None
        if node is None or node.op_type == "MatMul":
            break
        between.append(node.op_type)
    start = "not raised to Attention: "
    if node is None:
        return f"{start}its scores are no product of query and key"
    strange = [each for each in between if each not in ("Add", "Mul", "Div", "Where")]
    if strange:
        return f"{start}between product and softmax there is {', '.join(dict.fromkeys(strange))}"
    return f"{start}its parts are not in an order that is known"


def _reader(node: ir.Node, op_type: str) -> ir.Node | None:
    """The node of this type that reads the value, through what only arranges it."""
    pending = [(user, 0) for user, _ in node.outputs[0].uses()]
    while pending:
        user, depth = pending.pop()
        if user.op_type == op_type:
            return user
        if user.op_type in ARRANGING and depth < REACH:
            pending += [(each, depth + 1) for each, _ in user.outputs[0].uses()]
    return None


def _comes_from(node: ir.Node, op_type: str) -> bool:
    """Whether such a node is behind the value, at most an Add away."""
    for value in node.inputs:
        producer = value.producer() if value is not None else None
        if producer is None:
            continue
        if producer.op_type == op_type or (
            producer.op_type == "Add" and _comes_from(producer, op_type)
        ):
            return True
    return False
