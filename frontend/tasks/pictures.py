"""Pillow, which the tasks on pictures need; it comes with the extra `models`."""

from __future__ import annotations

from types import ModuleType

from bitfold.runtime.errors import UnsupportedError


def pillow() -> tuple[ModuleType, ModuleType, ModuleType]:
    """Pillow's modules Image, ImageDraw and ImageFont.

    Raises:
        UnsupportedError: the package is missing, or built without FreeType.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont, features
    except ImportError:
        raise UnsupportedError(
            "pictures need the package pillow", "pip install 'bitfold[models]'"
        ) from None
    if not features.check("freetype2"):
        raise UnsupportedError("this Pillow cannot draw text: it was built without FreeType")
    return Image, ImageDraw, ImageFont
