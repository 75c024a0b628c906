"""Passes of others (``onnx_ir`` passes, ``onnxscript`` rewrite rules) as bitfold passes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir
from onnxscript.rewriter import RewriteRule, RewriteRuleClassBase, RewriteRuleSet

from bitfold.passes.core.base import Pass, Promise
from bitfold.passes.core.context import Context
from bitfold.passes.core.words import counted
from bitfold.runtime.errors import RecipeError


@dataclass(frozen=True, eq=False)
class ForeignPass(Pass):
    """An ``onnx_ir`` pass or a set of rewrite rules, taken as exact unless told otherwise.

    Attributes:
        target: the pass or the rule set.
        reference: how recipes write it (``module:attribute``), or empty where they cannot.
        options: what the target was built with, as recipes write it.
        name: what reports call it.
        promise: what the pipeline checks.
    """

    name: ClassVar[str] = "foreign"
    promise: ClassVar[Promise] = Promise.EXACT

    target: Any
    reference: str = ""
    options: tuple[tuple[str, Any], ...] = ()
    promised: Promise = Promise.EXACT
    label: str = ""

    def __post_init__(self) -> None:
        # The pipeline reads name and promise of the instance: here they differ from the class's.
        object.__setattr__(self, "name", self.label or self.reference or _name_of(self.target))
        object.__setattr__(self, "promise", self.promised)

    def __eq__(self, other: object) -> bool:
        """Equal when written alike; without a reference, when the target is the same object."""
        return isinstance(other, ForeignPass) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        return (self.reference or id(self.target), self.options, self.promised)

    def run(self, model: ir.Model, context: Context) -> bool:
        """Apply the target; a functional pass's new model replaces the contents of ``model``."""
        if isinstance(self.target, RewriteRuleSet):
            count = self.target.apply_to_model(model)
            if count:
                context.entry.changed("(model)", f"{counted(count, 'match', 'matches')} rewritten")
            return bool(count)
        result = self.target(model)
        if result.model is not model:
            _replace_contents(model, result.model)
        return bool(result.modified)


def wrap(item: Any, promise: Promise = Promise.EXACT, name: str = "") -> Pass:
    """Make a bitfold pass of ``item``: a pass of any kind, a rewrite rule, or a set of rules.

    Raises:
        RecipeError: ``item`` is none of these.
    """
    if isinstance(item, Pass):
        return item
    if isinstance(item, ir.passes.PassBase):
        return ForeignPass(item, promised=promise, label=name)
    if isinstance(item, RewriteRuleSet):
        return ForeignPass(item, promised=promise, label=name)
    if isinstance(item, type) and issubclass(item, RewriteRuleClassBase):
        return ForeignPass(
            RewriteRuleSet([item.rule()]), promised=promise, label=name or _hyphenated(item)
        )
    if isinstance(item, RewriteRule):
        return ForeignPass(RewriteRuleSet([item]), promised=promise, label=name)
    if isinstance(item, Sequence) and item and all(isinstance(r, RewriteRule) for r in item):
        return ForeignPass(RewriteRuleSet(list(item)), promised=promise, label=name)
    raise RecipeError(
        f"expected a pass, an onnx_ir pass or onnxscript rewrite rules, found {item!r}",
        hint="derive from bitfold.Pass, or wrap a function in one",
    )


def _name_of(target: Any) -> str:
    if isinstance(target, RewriteRuleSet):
        names = [rule.name or "rule" for rule in target.rules]
        return _hyphenated(names[0]) if len(names) == 1 else f"rewrite-{len(names)}-rules"
    return _hyphenated(type(target))


def _hyphenated(name: str | type) -> str:
    """``IdentityEliminationPass`` → ``identity-elimination``."""
    text = name if isinstance(name, str) else name.__name__.removesuffix("Pass")
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", text)
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "rule"


def _replace_contents(model: ir.Model, other: ir.Model) -> None:
    model.graph = other.graph
    model.functions.clear()
    model.functions.update(other.functions)
    model.metadata_props.clear()
    model.metadata_props.update(other.metadata_props)
    model.ir_version = other.ir_version
