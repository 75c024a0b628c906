"""Presets: named recipes, in the recipes' own text form."""

from __future__ import annotations

from bitfold.runtime.errors import RecipeError

FOLD = "canonicalize, fold-batch-norm"
FUSE = "merge-siblings, fuse-swiglu, fuse-attention"
# Norm gains stay where they are: they cost nothing there, and folded into the weights they
# leave the activations' outliers unscaled, which costs accuracy at low activation bits.
EXACT = f"{FOLD}, {FUSE}"
ROTATED = f"{FOLD}, fold-norm-gain, ln-to-rms, rotate{{online=*}}, {FUSE}"
"""Everything that can be rotated; the presets rotate only what that is found to serve."""

W8A8 = "weights=int8"
W4A8 = "weights=int4 embeddings=int8 embedding_group=64"
MIXED = "symmetric=true scales=e4m3"
W4A4 = "weights=int4 embeddings=int8 acts=int4"


def rotating(scheme: str) -> str:
    """A recipe's text that rotates what is found to lose less by it, and nothing else."""
    advise = f"advise{{{scheme} smooth=false budget=0}}"
    return f"{FOLD}, {advise}, {FUSE}, quantize{{{scheme}}}, lower"


PRESETS: dict[str, str] = {
    "w8a8": f"{EXACT}, quantize{{{W8A8}}}, lower",
    "w4a8": f"{EXACT}, quantize{{{W4A8}}}, lower",
    "w4a8-mixed": f"{EXACT}, allocate{{bits=4.5}}, quantize{{{MIXED}}}, lower",
    "w4a4": f"{FOLD}, advise{{{W4A4}}}, {FUSE}, quantize{{{W4A4}}}, lower",
    "w4a16": f"{EXACT}, quantize{{weights=int4 embeddings=int8 acts=none}}, lower",
    "w3a8": f"{EXACT}, quantize{{weights=int3 embeddings=int8}}, lower",
    "w2a8": f"{EXACT}, quantize{{weights=int2 symmetric=true embeddings=int8}}, lower",
    "w8a8-rot": rotating(W8A8),
    "w4a8-rot": rotating(W4A8),
    "w4a4-rot": rotating(W4A4),
    "ternary": f"{EXACT}, quantize{{weights=ternary embeddings=int8}}, lower",
    "float": f"{EXACT}, lower",
}
"""Preset name to recipe.

``w4a8-mixed`` has 4 bits and scales of half a bit in the mean, each weight a format that suits it.
``float`` optimizes without quantizing.
"""


def preset_named(name: str) -> str:
    """The recipe text of a preset.

    Raises:
        RecipeError: there is no such preset.
    """
    if name not in PRESETS:
        raise RecipeError(f"no preset {name!r}", f"the presets are {', '.join(PRESETS)}")
    return PRESETS[name]


def sized(size: float, calibrated: bool, acts: str = "int8") -> str:
    """The recipe text for a file of ``size`` megabytes (1e6 bytes).

    Args:
        calibrated: whether there are inputs to round by (GPTQ), or weights go to nearest.
        acts: what inputs are rounded to.
    """
    method = "method=gptq tokens=uses" if calibrated else "method=rtn"
    quantize = f"quantize{{{MIXED} {method} acts={acts}}}"
    return f"{EXACT}, allocate{{size={size:g} acts={acts}}}, {quantize}, lower"
