"""``lower``: turn the neutral quantized form into the operators of a target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes.common import (
    RemoveUnusedFunctionsPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)

from bitfold.passes.core.base import Pass, Promise
from bitfold.passes.core.context import Context
from bitfold.passes.core.targets import Target
from bitfold.passes.lower.expand import expand_functions
from bitfold.passes.lower.native import lower_to_native
from bitfold.passes.lower.stock import lower_to_stock


@dataclass(frozen=True)
class Lower(Pass):
    """Emit the quantized sites as a target's low-bit operators.

    ``native``: ``bitfold.LowBitMatMul``, ``LowBitGather`` and ``LowBitConv`` on packed weights,
    with what stands beside a matmul taken in: a low-rank branch ``MatMul(MatMul(x, D), U)`` of its
    float input, added to its product; bias, activation, residual or Split; and what comes before
    it and has no other reader: RMSNormalization, Hadamard or the one behind the other, then a
    product with a constant vector (with norms a prefill of 128 tokens of SmolLM2 w4a8 takes 0.97 of
    the time that separate ones take, and decoding the same).  Every such node carries a function
    body of stock operators, so that the file also runs where the op library is not loaded.

    ``ort``: com.microsoft MatMulNBits and GatherBlockQuantized, which every ONNX Runtime has;
    1x1 convolutions with rounded inputs as a MatMulNBits between two Transposes (on ORT 1.31 a
    fourth of the time of QuantizeLinear, DequantizeLinear and Conv), others as DequantizeLinear
    and Conv.

    ``portable``: DequantizeLinear, QuantizeLinear and the standard operators between them.

    Other operators of bitfold become standard ones for ``ort`` and ``portable``.  Formats that a
    target lacks are stored in its next wider one, and the report says so.

    Attributes:
        target: what the model must run on.
        emulate: run sites whose scheme the target has no operator for as standard float
            operators that give the same numbers, and say so, instead of refusing.
        stock: globs of site or weight names that take the operators of ``ort`` though the target
            is ``native``, where these are faster.
        masked: matmuls whose weights have so many exact zeros that a bit for each weight and the
            codes of the others take at most this share of the bytes are stored so, for
            ``native``; 0 for none.  On AVX-512 a row times 4 bits of which half (3/4) are zero
            takes 0.9 (0.8) of the time of dense ones from memory and 1.5 times it from L3; 8 bits
            0.65 (0.4) from memory and about the same from L3.

    Raises:
        UnsupportedError: the target has no operator for a site's scheme.
    """

    name: ClassVar[str] = "lower"
    promise: ClassVar[Promise] = Promise.EXACT

    target: Target = "native"
    emulate: bool = False
    stock: tuple[str, ...] = ()
    masked: float = 0.9

    def run(self, model: ir.Model, context: Context) -> bool:
        if self.target == "native":
            changed = False
            if self.stock:
                changed = lower_to_stock(model, context, "ort", self.emulate, self.stock)
            changed |= lower_to_native(model, context, self.masked)
        else:
            changed = lower_to_stock(model, context, self.target, self.emulate)
            changed |= expand_functions(model)
        for cleanup in (RemoveUnusedNodesPass, RemoveUnusedFunctionsPass, RemoveUnusedOpsetsPass):
            cleanup()(model)
        return changed
