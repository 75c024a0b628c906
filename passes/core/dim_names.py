"""What the names of an input's dimensions tell: which of them mean a length, and which nothing."""

from __future__ import annotations

import re

import onnx_ir as ir

_PLACEHOLDER = re.compile(
    r"[^a-z]*"  # "?", "-1", "*" or nothing at all
    r"|(unk|unknown|dyn|dynamic|none|null|nan|any|undef|undefined|var|variable)"
    r"([^a-z0-9]*(dim|dims|dimension|axis|axes|size|len|length|shape))?",
    re.IGNORECASE,
)


def is_placeholder(name: str | None) -> bool:
    """Whether ``name`` only says that a length is not known, as ``?`` or ``None`` does.

    Exporters write the same one for every such dimension.  What ends in a number of its own
    (``unk__7``) is a name: they count these up.
    """
    return name is None or _PLACEHOLDER.fullmatch(name) is not None


def telling_names(value: ir.Value) -> list[str | None]:
    """For each axis of a graph input, the name of its dimension if it tells a length.

    ONNX means dimensions of one name to be equal.  But nobody checks, and a model whose input is
    ``[n, 3, n, n]`` runs on images that are no squares.  So a name tells nothing where it stands
    twice on one input, nor does a placeholder.

    Returns:
        None for fixed dimensions and for names that tell nothing; empty without a shape.
    """
    names = [None if isinstance(dim, int) else dim.value for dim in value.shape or ()]
    return [
        None if name is None or is_placeholder(name) or names.count(name) > 1 else name
        for name in names
    ]
