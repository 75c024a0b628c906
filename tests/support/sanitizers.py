"""Build the operator library under the compiler's sanitizers, or say why that is not possible."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"


def compiler() -> str | None:
    """The C++ compiler that CMake will take."""
    return shutil.which(os.environ.get("CXX", "c++"))


def runtime_library(name: str) -> Path | None:
    """A shared library of the compiler's own, such as ``libasan.so``."""
    asked = subprocess.run(
        [str(compiler()), f"-print-file-name={name}"], capture_output=True, text=True, check=True
    )
    path = Path(asked.stdout.strip())
    return path.resolve() if path.is_absolute() and path.exists() else None


def missing(sanitizer: str, folder: Path) -> str:
    """Why a library cannot be built and run under ``sanitizer``, or an empty string."""
    if sys.platform != "linux":
        return "the sanitizers' runtimes are preloaded as on Linux"
    if not (ROOT / "CMakeLists.txt").exists():
        return "no sources: these are the tests of an installed bitfold"
    if shutil.which("cmake") is None or compiler() is None:
        return "no CMake or no C++ compiler"
    source = folder / "empty.cc"
    source.write_text("int main() { return 0; }\n")
    program = folder / "empty"
    flags = [f"-fsanitize={sanitizer}", str(source), "-o", str(program)]
    built = subprocess.run([str(compiler()), *flags], capture_output=True)
    if built.returncode or subprocess.run([str(program)], capture_output=True).returncode:
        return f"the C++ compiler cannot build with -fsanitize={sanitizer}"
    if "address" in sanitizer and runtime_library("libasan.so") is None:
        return "the C++ compiler has no libasan.so to preload"
    return ""


def build(sanitizer: str, folder: Path, *targets: str) -> None:
    """Build ``targets`` of CMakeLists.txt in ``folder`` with BITFOLD_SANITIZE.

    Raises:
        RuntimeError: the build fails.
    """
    configure = ["cmake", "-S", ROOT, "-B", folder, f"-DBITFOLD_SANITIZE={sanitizer}"]
    make = ["cmake", "--build", folder, "--parallel", str(os.cpu_count() or 1)]
    for command in (configure, [*make, "--target", *targets]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}")


def address_environment(library: Path) -> dict[str, str]:
    """The environment in which Python uses a library built with ``address,undefined``.

    ORT's wheel and Python leak on purpose; C++'s exceptions need their library found first; and
    more memory than there is must be refused, not end the process.
    """
    preload = [runtime_library("libasan.so"), runtime_library("libstdc++.so")]
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(str(path) for path in preload if path),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "BITFOLD_OP_LIBRARY": str(library),
        "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)]),
    }
