"""ONNX Runtime's exceptions as bitfold's own, their cause in one line."""

from __future__ import annotations

from bitfold.runtime.errors import BitfoldError, ModelError, UnsupportedError


def explained(error: Exception, what: str) -> BitfoldError:
    """The error to raise for ORT's ``error``: ``what`` failed, and the first line of why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = lines[0] if lines else type(error).__name__
    if cause.startswith("[ONNXRuntimeError]"):
        cause = cause.split(" : ", 3)[-1]
    if type(error).__name__ in ("NotImplemented", "EPFail") or "is not a registered" in cause:
        return UnsupportedError(f"{what}: {cause}")
    return ModelError(f"{what}: {cause}")
