"""What the raising rules share: how they are applied and reported, and small predicates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import (
    RULE_NAME_TAG,
    MatchingTracer,
    MatchResult,
    MatchStatus,
    RewriteRule,
    RewriteRuleClassBase,
)
from onnxscript.rewriter.pattern import OrValue

from bitfold.passes.canonicalize.at_roots import at_roots
from bitfold.passes.core.report import PassEntry

if TYPE_CHECKING:
    # The base's signatures cannot say that a rule takes its pattern's variables by name.
    _RuleBase = Any
else:
    _RuleBase = RewriteRuleClassBase


_BROADCASTING = ("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Where")


class Rule(_RuleBase):
    """A rewrite rule whose methods take the pattern's variables by name.

    Constants become attributes, or inputs that must fit: no rule applies where one of more axes
    than what it meets gives the result more axes.
    """

    def __init__(self, name: str, **options: bool) -> None:
        super().__init__(name, **options)
        check = self.check

        def checked(context: Any, **found: Any) -> MatchResult:
            return _no_more_axes(context.nodes) and check(context, **found)

        # Not as an attribute: each rule names the variables that its own check takes.
        object.__setattr__(self, "check", checked)


def apply_rules(model: ir.Model, rules: Sequence[RewriteRule], entry: PassEntry) -> bool:
    """Apply ``rules`` to ``model`` in place; tell ``entry`` each change and each near miss.

    A rule's name is what the report says of a change.  A near miss is a match of a whole pattern
    that the rule's check declined (or whose inside values are used elsewhere).

    Returns:
        Whether anything changed.
    """
    before = {id(node) for node in model.graph.all_nodes()}
    rule_set = at_roots(rules)
    changed = rule_set.apply_to_model(model) > 0
    names = {node.name for node in model.graph.all_nodes()}
    for node in model.graph.all_nodes():
        rule = node.metadata_props.pop(RULE_NAME_TAG, None)
        if id(node) in before or rule is None:
            continue
        output = node.outputs[0].name
        if not node.name or node.name.startswith("node_"):
            node.name = _exporter_name(str(output), node.op_type, names)
        if rule.startswith(f"{node.op_type} "):
            entry.changed(str(output), rule)
    near_misses = _NearMisses()
    rule_set.apply_to_model(model, tracer=near_misses)
    for site, reason in near_misses.found.items():
        entry.skipped(site, reason)
    return changed


def _exporter_name(output: str, op_type: str, taken: set[str | None]) -> str:
    """A node's name as exporters give them: the scope of its output, and its operator."""
    scope = output.rpartition("/")[0]
    stem = f"{scope}/{op_type}" if scope else f"{op_type}_{output}"
    name, count = stem, 0
    while name in taken:
        count += 1
        name = f"{stem}_{count}"
    taken.add(name)
    return name


class _NearMisses(MatchingTracer):
    """Collects matches that were declined, one a site; given to a rule set, nothing is changed."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}

    def log(
        self,
        rule: RewriteRule,
        container: ir.Graph | ir.Function,
        node: ir.Node,
        match_result: MatchResult,
        status: MatchStatus,
    ) -> None:
        inside = "other uses" in match_result.reason
        if status is not MatchStatus.CONDITION_FAILED and not (
            status is MatchStatus.NO_MATCH and inside
        ):
            return
        if not match_result.reason:
            return
        op_type = str(rule.name).split(" ")[0]
        site = str(node.outputs[0].name)
        self.found.setdefault(site, f"not raised to {op_type}: {match_result.reason}")


def _no_more_axes(nodes: Iterable[ir.Node]) -> MatchResult:
    """Whether no constant has more axes than the other inputs of its node."""
    for node in nodes:
        if node.domain != "" or node.op_type not in _BROADCASTING:
            continue
        values = [value for value in node.inputs if value is not None]
        constants = [value for value in values if value.const_value is not None]
        others = [value.shape for value in values if value.const_value is None]
        rank = max((0 if shape is None else len(shape) for shape in others), default=None)
        for value in constants:
            tensor = value.const_value
            assert tensor is not None, "it is a constant"
            # What meets several elements along one axis, as a gain, has that axis too.
            needed = len(tensor.shape) if len(tensor.shape) != 1 or tensor.size == 1 else 0
            if rank is not None and needed > rank:
                return decline(f"{value.name} may have more axes than what it meets", value)
    return MatchResult()


def either(op: Any, first: Any, second: Any) -> Any:
    """A pattern for a commutative operator in either order of its inputs."""
    return OrValue([op(first, second), op(second, first)])


def scalar(value: ir.Value | None) -> float | None:
    """The number that ``value`` holds, if it is a constant of one element."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    tensor = value.const_value
    if tensor.size != 1 or not (tensor.dtype.is_floating_point() or tensor.dtype.is_integer()):
        return None
    return float(tensor.numpy().reshape(()).astype(np.float64))


def is_scalar(value: ir.Value | None, expected: float) -> bool:
    """Whether ``value`` is the constant ``expected``, as float32 can tell."""
    number = scalar(value)
    return number is not None and bool(np.isclose(number, expected, rtol=1e-5, atol=0))


def ints(value: ir.Value | None) -> list[int] | None:
    """The integers of a small constant, flattened."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    tensor = value.const_value
    if tensor.size > 16 or not tensor.dtype.is_integer():
        return None
    return [int(i) for i in tensor.numpy().reshape(-1)]


def vector_length(value: ir.Value | None) -> int | None:
    """Length of a constant vector (a norm's gain, a bias); None for anything else."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    shape = value.const_value.shape.numpy()
    return int(shape[0]) if len(shape) == 1 else None


def last_dim(value: ir.Value) -> int | None:
    """The size of the last axis, if it is known."""
    shape = value.shape
    if shape is None or len(shape) == 0 or not isinstance(shape[-1], int):
        return None
    return shape[-1]


def keeps_dims(outputs: Iterable[ir.Value]) -> bool:
    """Whether each of these reductions keeps the reduced axis with size 1."""
    for output in outputs:
        node = output.producer()
        if node is None or node.attributes.get_int("keepdims", 1) != 1:
            return False
    return True


def decline(reason: str, *culprits: ir.Value | None) -> MatchResult:
    """A rule's refusal, with its reason and the values that caused it."""
    return MatchResult().fail(reason, [value for value in culprits if value is not None])


def pass_over() -> MatchResult:
    """A rule's refusal of what only looks alike (a residual Add is no bias): not reported."""
    return MatchResult().fail("")
