"""What ``LowBitMatMul`` does to its rows first: RMSNorm, then a Hadamard transform."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from bitfold.runtime.ops.body import Body
from bitfold.runtime.ops.hadamard import transformed


@dataclass(frozen=True)
class Prologue:
    """One configuration of the prologue; by default nothing is done.

    Attributes:
        epsilon: of the norm; None where there is no norm.
        hadamard_size: the transform's blocks; 0 where there is none.
        hadamard_order: m of the base matrix; 1 where there is none.
    """

    epsilon: float | None = None
    hadamard_size: int = 0
    hadamard_order: int = 1

    def attributes(self) -> dict[str, int | float]:
        """What the prologue adds to a node's attributes."""
        norm: dict[str, int | float] = {} if self.epsilon is None else {"epsilon": self.epsilon}
        return {**norm, **({"hadamard_size": self.hadamard_size} if self.hadamard_size else {})}

    def overload(self) -> list[str]:
        """Parts of the name of a function body."""
        norm = [] if self.epsilon is None else [f"norm{self.epsilon:.9g}"]
        return norm + [f"h{self.hadamard_size}_m{self.hadamard_order}"] * bool(self.hadamard_size)

    def prepared(self, body: Body, x: ir.Value, gain: ir.Value, base: ir.Value) -> ir.Value:
        """Add the nodes that prepare ``x`` [..., K]."""
        if self.epsilon is not None:
            x = body("RMSNormalization", x, gain, axis=-1, epsilon=self.epsilon)
        if self.hadamard_size:
            given = base if self.hadamard_order > 1 else None
            x = transformed(body, x, given, self.hadamard_size, self.hadamard_order)
        return x


NO_PROLOGUE = Prologue()
