"""What a change of coordinates does to the kurtosis of activations, told in the report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.space_places import place_read, read_places
from bitfold.passes.analysis.space_statistics import kurtosis_at
from bitfold.passes.analysis.spaces.space import Space
from bitfold.passes.core.context import Context
from bitfold.passes.core.words import counted
from bitfold.runtime.errors import BitfoldError

SAMPLES = 2
"""Sample inputs that are looked at, the first ones."""


class KurtosisWatch:
    """Measures what linear ops read of spaces, before a change and after it.

    A place is known by the op that reads it: afterwards the value may be another one, such as that
    of a Hadamard node at a border.  Nothing is measured on samples that are made up.

    Args:
        model: before the change.
        spaces: those to be changed, as they are before.
    """

    def __init__(self, model: ir.Model, spaces: Sequence[Space], context: Context) -> None:
        self._samples = () if context.made_up else context.samples[:SAMPLES]
        self._spaces = spaces
        self._readers = [list(read_places(space).values()) for space in spaces]
        self._before = self._measured(model)

    def tell(self, model: ir.Model, context: Context) -> None:
        """Note both figures in the report, in one line for all spaces of a form.

        Args:
            model: after the change.
        """
        after = self._measured(model)
        if not self._before or not after:
            return
        forms: dict[str, list[int]] = {}
        for number, space in enumerate(self._spaces):
            blocks = f"{space.blocks} x " if space.blocks > 1 else ""
            forms.setdefault(f"{blocks}{space.size} channels", []).append(number)
        for form, numbers in forms.items():
            old, new = (np.concatenate([f[n] for n in numbers]) for f in (self._before, after))
            if not old.size or old.size != new.size:
                continue  # figures of different tokens say nothing
            spaces = f", {counted(len(numbers), 'space')}" if len(numbers) > 1 else ""
            places = counted(sum(len(self._readers[n]) for n in numbers), "place")
            context.entry.note(
                f"kurtosis within a token of {form}{spaces}: "
                f"median {np.median(old):.3g} -> {np.median(new):.3g}, "
                f"at most {old.max():.3g} -> {new.max():.3g}, at {places}"
            )

    def _measured(self, model: ir.Model) -> list[np.ndarray]:
        """Of each space, the kurtosis of each token at each place; nothing where none runs."""
        if not self._samples or not self._spaces:
            return []
        places = [
            [place for held in readers if (place := place_read(held, space.size)) is not None]
            for space, readers in zip(self._spaces, self._readers, strict=True)
        ]
        try:
            return kurtosis_at(model, places, self._samples)
        except BitfoldError:
            return []  # ORT runs a stand-in for the model: a figure is not worth failing for
