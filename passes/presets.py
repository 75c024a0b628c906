"""Presets: named recipes, in the recipes' own text form."""

from __future__ import annotations

from bitfold.runtime.errors import RecipeError

FRONT = "canonicalize, fold-batch-norm, merge-siblings, fuse-swiglu"
BACK = "fuse-attention, fuse-skip-norm, lower"

PRESETS: dict[str, str] = {
    "w8a8": f"{FRONT}, quantize{{weights=int8 group=64}}, {BACK}",
    "w4a8": f"{FRONT}, quantize{{weights=int4 group=32 embeddings=int8}}, {BACK}",
    "w4a16": f"{FRONT}, quantize{{weights=int4 group=32 embeddings=int8 acts=none}}, {BACK}",
    "w3a8": f"{FRONT}, quantize{{weights=int3 group=32 embeddings=int8}}, {BACK}",
    "w2a8": f"{FRONT}, quantize{{weights=int2 group=32 embeddings=int8}}, {BACK}",
    "ternary": f"{FRONT}, quantize{{weights=ternary group=32 embeddings=int8}}, {BACK}",
    "float": f"{FRONT}, fuse-attention, fuse-skip-norm",
}
"""Preset name to recipe.  ``float`` optimizes without quantizing."""


def preset_named(name: str) -> str:
    """The recipe text of a preset.

    Raises:
        RecipeError: there is no such preset.
    """
    if name not in PRESETS:
        raise RecipeError(f"no preset {name!r}", f"the presets are {', '.join(PRESETS)}")
    return PRESETS[name]
