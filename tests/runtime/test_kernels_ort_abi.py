"""Our slice of ORT's C ABI against the official header, where there is one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

OURS = Path(__file__).resolve().parents[2] / "runtime" / "cpp" / "ops" / "ort_abi.h"
ENVIRONMENT = "BITFOLD_ORT_HEADER"
PLACES = ("/usr/include/onnxruntime", "/usr/local/include/onnxruntime")


def official_header() -> Path | None:
    """``onnxruntime_c_api.h`` from the environment variable or where Debian puts it."""
    named = os.environ.get(ENVIRONMENT)
    if named:
        return Path(named)
    for place in PLACES:
        for path in sorted(Path(place).rglob("onnxruntime_c_api.h")):
            return path
    return None


def entries(struct: str) -> list[str]:
    """Names of the function pointers that our header declares in a struct."""
    body = re.search(rf"struct {struct} {{(.*?)\n}};", OURS.read_text(), re.DOTALL)
    assert body is not None
    return re.findall(r"\(BITFOLD_ORT_CALL\* (\w+)\)", body[1])


def enumerators() -> list[str]:
    """Names of the enum values that our header declares."""
    values: list[str] = []
    for body in re.findall(r"enum \w+ : int {(.*?)}", OURS.read_text(), re.DOTALL):
        values += re.findall(r"(\w+) = \d+", body)
    return values


def test_every_entry_is_at_its_official_place(tmp_path: Path) -> None:
    header = official_header()
    if header is None:
        pytest.skip(f"no onnxruntime_c_api.h: set {ENVIRONMENT} to one")
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no C++ compiler")
    checks = [
        f"static_assert(offsetof(OrtApi, {name}) == offsetof(bitfold::ort::OrtApi, {name}));"
        for name in entries("OrtApi")
    ]
    checks += [
        f"static_assert(offsetof(OrtApiBase, {name}) == "
        f"offsetof(bitfold::ort::OrtApiBase, {name}));"
        for name in entries("OrtApiBase")
    ]
    checks += [
        f"static_assert(offsetof(OrtCustomOp, {name}) == "
        f"offsetof(bitfold::ort::OrtCustomOp, {name}));"
        for name in ["version", "CreateKernel", *entries("OrtCustomOp")]
    ]
    checks += [
        f"static_assert((int)::{name} == (int)bitfold::ort::{name});" for name in enumerators()
    ]
    assert len(checks) > 60, "the patterns above no longer fit our header"
    source = tmp_path / "check.cc"
    source.write_text(
        f'#include <cstddef>\n#include "{header}"\n#include "{OURS}"\n' + "\n".join(checks)
    )
    done = subprocess.run(
        [compiler, "-std=c++17", "-fsyntax-only", f"-I{header.parent}", str(source)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[:3000]
