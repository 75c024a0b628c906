"""ONNX Runtime's exceptions as bitfold's own, their cause in one line."""

from __future__ import annotations

import re

from bitfold.runtime.errors import BitfoldError, ModelError, UnsupportedError


def explained(error: Exception, what: str) -> BitfoldError:
    """The error to raise for ORT's ``error``: ``what`` failed, and the first line of why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = lines[0] if lines else type(error).__name__
    if cause.startswith("[ONNXRuntimeError]"):
        cause = cause.split(" : ", 3)[-1]
    cause = _without_source(cause)
    if type(error).__name__ in ("NotImplemented", "EPFail") or "is not a registered" in cause:
        return UnsupportedError(f"{what}: {cause}")
    return ModelError(f"{what}: {cause}")


_PLACE = re.compile(r"(?:/?[\w.+-]+/)*[\w.+-]+\.(?:cc|cpp|h|hpp):\d+ ")
_QUALIFIERS = re.compile(r"(?: const)?(?: \[with [^]]*\])? ")
_NAME = re.compile(r"\w+ ")


def _without_source(text: str) -> str:
    """``text`` without places in ORT's own source: the file, its line and the function there."""
    while found := _PLACE.search(text):
        text = f"{text[: found.start()].rstrip()} {_after_function(text[found.end() :])}"
    return text.strip()


def _after_function(text: str) -> str:
    """What follows a C++ function, given by its whole signature or by its name alone."""
    opened = text.find("(")
    head = text[: max(opened, 0)]
    if "::" not in head:  # no signature: its names are qualified
        return _NAME.sub("", text, count=1)
    depth = 0
    for index in range(opened, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            rest = text[index + 1 :]
            return _QUALIFIERS.sub("", rest, count=1) if _QUALIFIERS.match(rest) else rest
    return text
