"""The pass: one frozen dataclass, whose fields are its options, with a promise to keep."""

from __future__ import annotations

import enum
import functools
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import onnx_ir as ir

from bitfold.passes.core import options
from bitfold.passes.core.context import Context


class Promise(enum.Enum):
    """What a pass says about the model's outputs; the pipeline checks it."""

    EXACT = "exact"
    """The outputs stay the same, up to float rounding."""
    LOSSY = "lossy"
    """The outputs change on purpose; the change is measured and charged to the pass."""


class Pass(ir.passes.InPlacePass):
    """Base of every pass.

    A subclass is a ``@dataclass(frozen=True)`` whose fields are its options (typed, with
    defaults: recipes, the CLI and the docs derive from them).  It keeps no state: what a run
    shares lives in the :class:`Context`.  Options are held to their types wherever a pass is made,
    in Python as in a recipe: a misfit raises RecipeError.

    Example::

        @dataclass(frozen=True)
        class FoldNormGain(Pass):
            name = "fold-norm-gain"
            promise = Promise.EXACT

            def run(self, model, context):
                ...
                context.entry.changed(node.name, "gain folded into 3 readers")
                return True
    """

    name: ClassVar[str]
    """How recipes call the pass: lower-case words joined by hyphens."""
    promise: ClassVar[Promise]

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        own = cls.__dict__.get("__post_init__")
        if own is not None:  # a subclass's checks of its own begin with options of the right type
            cls.__post_init__ = _after_checking(own)  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        options.check_fields(self, self.name)

    @abstractmethod
    def run(self, model: ir.Model, context: Context) -> bool:
        """Rewrite ``model`` in place; return whether anything changed.

        Every site that the pass looked at and left alone is told to
        ``context.entry.skipped(site, reason)``: a skip is never silent.
        """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run outside a pipeline, unchecked, with an empty context (``onnx_ir``'s interface)."""
        with Context() as context:
            return ir.passes.PassResult(model, self.run(model, context))


def _after_checking(own: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(own)
    def check(self: Pass, *arguments: Any) -> None:
        Pass.__post_init__(self)
        own(self, *arguments)

    return check
