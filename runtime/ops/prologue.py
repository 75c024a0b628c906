"""What ``LowBitMatMul`` does to its rows first: RMSNorm, Hadamard transform, skipped columns."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from bitfold.runtime.ops.body import Body
from bitfold.runtime.ops.hadamard import transformed
from bitfold.runtime.ops.skip_columns import kept_columns


@dataclass(frozen=True)
class Prologue:
    """One configuration of the prologue; by default nothing is done.

    Attributes:
        epsilon: of the norm; None where there is no norm.
        hadamard_size: the transform's blocks; 0 where there is none.
        hadamard_order: m of the base matrix; 1 where there is none.
        keep: share of the columns that are not skipped; None where there are no column_norms.
    """

    epsilon: float | None = None
    hadamard_size: int = 0
    hadamard_order: int = 1
    keep: float | None = None

    def attributes(self) -> dict[str, int | float]:
        """What the prologue adds to a node's attributes."""
        norm: dict[str, int | float] = {} if self.epsilon is None else {"epsilon": self.epsilon}
        return {
            **norm,
            **({"hadamard_size": self.hadamard_size} if self.hadamard_size else {}),
            **({} if self.keep is None else {"keep": self.keep}),
        }

    def overload(self) -> list[str]:
        """Parts of the name of a function body."""
        norm = [] if self.epsilon is None else [f"norm{self.epsilon:.9g}"]
        parts = norm + [f"h{self.hadamard_size}_m{self.hadamard_order}"] * bool(self.hadamard_size)
        return parts if self.keep is None else [*parts, f"keep{self.keep:.9g}"]

    def prepared(
        self, body: Body, x: ir.Value, gain: ir.Value, base: ir.Value, norms: ir.Value, k: int
    ) -> ir.Value:
        """Add the nodes that prepare ``x`` [..., k]."""
        if self.epsilon is not None:
            x = body("RMSNormalization", x, gain, axis=-1, epsilon=self.epsilon)
        if self.hadamard_size:
            given = base if self.hadamard_order > 1 else None
            x = transformed(body, x, given, self.hadamard_size, self.hadamard_order)
        return x if self.keep is None else kept_columns(body, x, norms, k, self.keep)


NO_PROLOGUE = Prologue()
