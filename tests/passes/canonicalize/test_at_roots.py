"""Rules are tried where their patterns can end, and nowhere else."""

from onnxscript.rewriter import RewriteRule
from support.graphs import parse, text_of

from bitfold.passes.canonicalize.at_roots import at_roots


def _double_negation(tried: list[str]) -> RewriteRule:
    rule = RewriteRule(lambda op, x: op.Neg(op.Neg(x)), lambda op, x: op.Identity(x), name="twice")
    match = rule.match

    def watched(model, graph, node, **options):
        tried.append(node.op_type)
        return match(model, graph, node, **options)

    rule.match = watched
    return rule


def test_rules_are_tried_on_nodes_of_their_roots_operator():
    model = parse(
        """g (float[4] x) => (float[4] y) {
            a = Neg(x)
            b = Neg(a)
            c = Relu(b)
            y = Neg(c)
        }"""
    )
    tried: list[str] = []
    assert at_roots([_double_negation(tried)]).apply_to_model(model) == 1
    assert text_of(model)[1:] == ["c = Relu(b)", "y = Neg(c)"]
    assert tried == ["Neg", "Neg", "Neg"]
