"""Weights that are done, kept as they come: a conversion that was stopped goes on from there."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np

from bitfold.passes.core.store import Note, Store
from bitfold.passes.quantize.low_rank import Branch
from bitfold.passes.quantize.piece import Outcome
from bitfold.passes.quantize.rounding import QuantizedWeight
from bitfold.passes.quantize.weight_sum import WeightSum
from bitfold.runtime.formats import Format
from bitfold.runtime.formats.scheme import WeightScheme

CLASSES = (Outcome, WeightSum, QuantizedWeight, Branch, WeightScheme, Format)


class Journal:
    """What came of the weights of one run, in the order in which they were done.

    Args:
        store: where it is kept; None to keep nothing.
        run: a key of all that decides the run.
        note: takes a line for the report.
    """

    def __init__(self, store: Store | None, run: str, note: Note) -> None:
        self.store = store
        self.run = run
        self.note = note
        self.length = 0

    def read(self) -> Iterator[tuple[int, Outcome]]:
        """What earlier runs wrote: numbers of jobs, and what came of them, up to the first gap."""
        if self.store is None:
            return
        for place in count():
            found = self.store.get(self._key(place), CLASSES, self.note)
            if found is None:
                return
            self.length = place + 1
            yield found

    def write(self, job: int, outcome: Outcome) -> None:
        """Note what came of a job, behind all that is there."""
        if self.store is not None:
            self.store.put(self._key(self.length), (job, outcome), self.note)
            self.length += 1

    def recall(self, key: str) -> list[np.ndarray] | None:
        """How much tokens count, as :class:`~bitfold.passes.calibrate.token_weights.KeptWeights`.

        It may depend on weights that were not rounded yet, and are now.
        """
        return None if self.store is None else self.store.get(self._tokens(key), (), self.note)

    def keep(self, key: str, weights: list[np.ndarray]) -> None:
        """Note how much tokens count."""
        if self.store is not None:
            self.store.put(self._tokens(key), weights, self.note)

    def _key(self, place: int) -> str:
        return f"{self.run} weight {place}"

    def _tokens(self, key: str) -> str:
        return f"{self.run} tokens {key}"
