"""Find bitfold's operator library for ONNX Runtime, and ask it what it runs on."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import bitfold.runtime
from bitfold.runtime.errors import UnsupportedError

ENVIRONMENT = "BITFOLD_OP_LIBRARY"
"""Names a library to use instead of the one that was installed."""

NAMES = ("libbitfold_ops.so", "libbitfold_ops.dylib", "libbitfold_ops.dll")


def op_library_path() -> Path:
    """The operator library's path, for ``SessionOptions.register_custom_ops_library``.

    Raises:
        UnsupportedError: there is none, or ``BITFOLD_OP_LIBRARY`` names no file.
    """
    named = os.environ.get(ENVIRONMENT)
    if named:
        if not Path(named).is_file():
            raise UnsupportedError(
                f"{ENVIRONMENT}: expected a library, found no file {named}",
                hint=f"correct {ENVIRONMENT}, or unset it to use the installed library",
            )
        return Path(named)
    folders = list(dict.fromkeys(_folders()))
    for folder in folders:
        for name in NAMES:
            if (folder / name).is_file():
                return folder / name
    raise UnsupportedError(
        "expected bitfold's operator library, found none in "
        + ", ".join(str(folder) for folder in folders),
        hint="install bitfold with pip, which builds it (a C++17 compiler is needed), or build "
        f"it with CMake and set {ENVIRONMENT} to its path",
    )


def _folders() -> Iterator[Path]:
    """Where the library may be: the sources and what is installed can lie in two places.

    They do in an editable installation, and in a checkout that Python was started in: it then
    hides the installed package, but has no library of its own.
    """
    for folder in bitfold.runtime.__path__:
        yield Path(folder) / "lib"
    try:
        installed = distribution("bitfold")
    except PackageNotFoundError:
        return
    yield Path(str(installed.locate_file("bitfold/runtime/lib")))


def isa() -> str:
    """The instruction set whose kernels run.

    One of ``ref``, ``avx2``, ``avxvnni``, ``avx512vnni``, ``avx512bitalg`` and ``neon``.  It is
    chosen when the library is first used in a process; ``BITFOLD_ISA`` overrides it.

    Raises:
        UnsupportedError: there is no library, or ``BITFOLD_ISA`` names none of
            :func:`supported_isas`.
    """
    library = _library()
    active = library.bitfold_isa()
    if active is None:
        raise UnsupportedError(library.bitfold_error().decode(), hint="correct or unset it")
    return str(active.decode())


def supported_isas() -> list[str]:
    """The instruction sets that the library and this machine have, widest last.

    Raises:
        UnsupportedError: there is no library.
    """
    return [str(name) for name in _library().bitfold_supported_isas().decode().split(",")]


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(op_library_path()))
    for name in ("bitfold_isa", "bitfold_supported_isas", "bitfold_error"):
        function = getattr(library, name)
        function.argtypes, function.restype = [], ctypes.c_char_p
    return library
