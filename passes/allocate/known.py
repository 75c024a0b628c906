"""How far outputs moved, as earlier runs on the same model and samples measured it."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from bitfold.passes.core.context import Context, Feeds, digest_of
from bitfold.passes.core.fingerprint import model_digest, software_digest


class Known:
    """Distances by what was done to the model; without a cache, none are known.

    Args:
        context: has the cache, and the report's entry.
        model: as it is measured.
        samples: on which.
    """

    def __init__(self, context: Context, model: ir.Model, samples: Sequence[Feeds]) -> None:
        self.store = context.cache
        self.note = context.entry.note
        self.root = ""
        if self.store is not None:
            self.root = f"{software_digest()} {model_digest(model)} {digest_of(samples)}"

    def get(self, what: str) -> float | None:
        """The distance of the outputs when ``what`` was done; None where it is not known."""
        if self.store is None:
            return None
        found = self.store.get(f"{self.root} moved {what}", (), self.note)
        return None if found is None else float(found)

    def put(self, what: str, distance: float) -> float:
        """Note a distance, and return it."""
        if self.store is not None:
            self.store.put(f"{self.root} moved {what}", float(distance), self.note)
        return distance
