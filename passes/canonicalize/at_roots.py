"""Rules tried where they can match: a rule set of onnxscript tries every rule on every node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import RewriteRule, RewriteRuleSet


def at_roots(rules: Sequence[RewriteRule]) -> RewriteRuleSet:
    """A rule set that tries a rule on nodes of the operator that its pattern ends in.

    It matches what ``RewriteRuleSet(rules)`` does, in a fraction of the time: on any other node a
    match is set up, fails at its first step, and puts into words why.
    """
    return RewriteRuleSet([_AtRoot(rule) for rule in rules])  # type: ignore[misc]


class _AtRoot:
    """A rule as its rule set sees it: one that no node of another operator matches."""

    def __init__(self, rule: RewriteRule) -> None:
        self._rule = rule
        # A set tries the first node of several that a pattern ends in; None where that may be of
        # several operators.
        self._root = rule._target_pattern.output_nodes[0].op_identifier()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rule, name)

    def try_rewrite(self, model: ir.Model, graph: Any, node: ir.Node, **options: Any) -> Any:
        if self._root is not None and self._root[:2] != (node.domain, node.op_type):
            return None
        return self._rule.try_rewrite(model, graph, node, **options)
