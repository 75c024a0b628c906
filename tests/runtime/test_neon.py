"""The NEON kernels: cross-compiled for AArch64 and run in an emulator, beside the reference."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.real_models import SHORT

ROOT = Path(__file__).resolve().parents[2]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
LIBRARIES = Path("/usr/aarch64-linux-gnu")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SHORT, reason="in the full form: compilers and emulators take minutes"),
    *(
        pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")
        for tool in (COMPILER, EMULATOR, "cmake", "ninja")
    ),
]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the operator library and ``neon_check``, for AArch64."""
    folder = tmp_path_factory.mktemp("aarch64")
    configure = ["cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja"]
    configure += ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"]
    configure += [f"-DCMAKE_CXX_COMPILER={COMPILER}", "-DBITFOLD_NEON_CHECK=ON"]
    configure += ["-DCMAKE_CXX_FLAGS=-Werror"]
    for command in (configure, ["ninja", "-C", str(folder), "-j", "1"]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return folder


def check(build: Path, cpu: str, isa: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``neon_check`` on an emulated CPU, expecting an ISA."""
    return subprocess.run(
        [EMULATOR, "-L", str(LIBRARIES), "-cpu", cpu, str(build / "neon_check"), isa],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )


def test_kernels_match_the_reference(build: Path) -> None:
    """Every format, option and many odd shapes, with every array at the edge of its pages."""
    done = check(build, "max", "neon")
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert done.stdout.splitlines()[-1].endswith(" 0 failures")


def test_the_reference_runs_where_sdot_is_missing(build: Path) -> None:
    """A CPU of Armv8.0 has NEON but no dot products: nothing of them may run there."""
    done = check(build, "cortex-a53", "ref")
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    done = check(build, "cortex-a53", "neon", BITFOLD_ISA="neon")
    assert done.returncode == 1
    assert "expected one of ref on this machine, found neon" in done.stdout


def test_the_library_exports_its_entry_points(build: Path) -> None:
    """The operator library links for AArch64, with nothing but its entry points visible."""
    reader = shutil.which("aarch64-linux-gnu-nm")
    if reader is None:
        pytest.skip("aarch64-linux-gnu-nm is not installed")
    listed = subprocess.run(
        [reader, "-D", "--defined-only", str(build / "libbitfold_ops.so")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = {line.split()[-1].split("@")[0] for line in listed.splitlines()}
    assert "RegisterCustomOps" in names
    assert not [name for name in names if "bitfold" in name and not name.startswith("bitfold_")]
