"""Finding the operator library, choosing its ISA, and refusing an old ORT."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

import bitfold.runtime
from bitfold.runtime import op_library
from bitfold.runtime.errors import UnsupportedError


def test_environment_names_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    named = tmp_path / "mine.so"
    monkeypatch.setenv(op_library.ENVIRONMENT, str(named))
    with pytest.raises(UnsupportedError, match=r"found no file .*mine\.so"):
        op_library.op_library_path()
    named.touch()
    assert op_library.op_library_path() == named


def test_library_in_any_folder_of_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An editable installation has two: sources in one, the library in the other."""
    monkeypatch.delenv(op_library.ENVIRONMENT, raising=False)
    folders = [tmp_path / "sources", tmp_path / "installed"]
    monkeypatch.setattr(bitfold.runtime, "__path__", [str(folder) for folder in folders])
    monkeypatch.setattr(op_library, "distribution", not_installed)
    with pytest.raises(UnsupportedError, match="found none in") as caught:
        op_library.op_library_path()
    assert op_library.ENVIRONMENT in caught.value.hint
    library = folders[1] / "lib" / "libbitfold_ops.so"
    library.parent.mkdir(parents=True)
    library.touch()
    assert op_library.op_library_path() == library


def test_a_checkout_that_hides_the_installed_package_uses_its_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(op_library.ENVIRONMENT, raising=False)
    monkeypatch.setattr(bitfold.runtime, "__path__", [str(tmp_path / "checkout")])
    installed = SimpleNamespace(locate_file=lambda path: tmp_path / "site" / path)
    monkeypatch.setattr(op_library, "distribution", lambda name: installed)
    library = tmp_path / "site" / "bitfold" / "runtime" / "lib" / "libbitfold_ops.so"
    library.parent.mkdir(parents=True)
    library.touch()
    assert op_library.op_library_path() == library


def not_installed(name: str) -> None:
    raise PackageNotFoundError(name)


def in_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code with the library of this process, which may not have chosen an ISA yet."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            op_library.ENVIRONMENT: str(op_library.op_library_path()),
            **environment,
        },
        capture_output=True,
        text=True,
    )


ASK = "from bitfold.runtime import op_library; print(op_library.isa())"


def test_isa_is_the_widest_unless_named() -> None:
    supported = op_library.supported_isas()
    assert supported[0] == "ref"
    assert in_process(ASK, BITFOLD_ISA="").stdout.strip() == supported[-1]
    for name in supported:
        assert in_process(ASK, BITFOLD_ISA=name).stdout.strip() == name


def test_unknown_isa_is_refused() -> None:
    message = "BITFOLD_ISA: expected one of ref"
    asked = in_process(ASK, BITFOLD_ISA="sse9")
    assert asked.returncode != 0
    assert "UnsupportedError" in asked.stderr
    assert message in asked.stderr
    code = (
        "import onnxruntime as ort\n"
        "from bitfold.runtime.op_library import op_library_path\n"
        "ort.SessionOptions().register_custom_ops_library(str(op_library_path()))"
    )
    opened = in_process(code, BITFOLD_ISA="sse9")
    assert opened.returncode != 0
    assert message in opened.stderr
    assert "found sse9" in opened.stderr


def test_old_ort_is_refused() -> None:
    """A stand-in for ORT 1.9, which has the first entries of the function table only."""
    said: list[bytes] = []
    create = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)(
        lambda code, message: said.append(message) or 1
    )
    table = (ctypes.c_void_p * 3)(ctypes.cast(create, ctypes.c_void_p))
    get_api = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)(
        lambda version: ctypes.addressof(table) if version <= 9 else None
    )
    get_version = ctypes.CFUNCTYPE(ctypes.c_void_p)(lambda: ctypes.addressof(name))
    name = ctypes.create_string_buffer(b"1.9.0")
    base = (ctypes.c_void_p * 2)(
        ctypes.cast(get_api, ctypes.c_void_p), ctypes.cast(get_version, ctypes.c_void_p)
    )
    library = ctypes.CDLL(str(op_library.op_library_path()))
    library.RegisterCustomOps.restype = ctypes.c_void_p
    library.RegisterCustomOps.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    status = library.RegisterCustomOps(None, ctypes.addressof(base))
    assert status == 1
    assert said == [b"bitfold: expected ONNX Runtime 1.17 or newer, found 1.9.0"]
