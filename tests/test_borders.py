"""Imports go one way: frontend → passes → runtime, frontend → models → runtime."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ALLOWED = {
    "runtime": {"runtime"},
    "models": {"models", "runtime"},
    "passes": {"passes", "runtime"},
    "frontend": {"frontend", "passes", "models", "runtime"},
}
"""For each package of bitfold, the packages that it may import."""

PASSES_MAY_USE = {
    "errors",
    "execution",
    "formats",
    "hadamard",
    "layouts",
    "op_library",
    "ops",
    "ort_errors",
    "reference",
}
"""The parts of the runtime that passes may import: no kernels, no sessions."""

WITHIN_PASSES = {
    "opsets": {"opsets"},
    "core": {"core", "opsets"},
    "analysis": {"analysis", "core", "opsets"},
    "allocate": {"allocate", "analysis", "core", "opsets", "quantize", "transform"},
    "advise": {"advise", "analysis", "core", "fold", "opsets", "quantize", "transform"},
    **{
        stage: {stage, "analysis", "core", "opsets"}
        for stage in ("canonicalize", "fold", "fuse", "lower", "quantize")
    },
    "transform": {"transform", "quantize", "analysis", "core", "opsets"},
}
"""For each folder of the passes, those that it may import: no stage knows another.

But transforms prepare for rounding, and judge by what it would do.
"""

KERNEL_ABI = ("ctypes", "cffi")
"""Nothing but the runtime calls into native code."""


def imported(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that ``source``, a module of ``package``, imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args:
            # importlib.import_module("bitfold.…") and its like
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0]
            if name in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield node.lineno, str(first.value)


def violations(folder: str, package: str, source: str) -> Iterator[str]:
    """The imports of ``source``, a module in ``folder``, that cross a border the wrong way."""
    for line, name in imported(source, package):
        parts = name.split(".")
        if parts[0] in KERNEL_ABI and folder != "runtime":
            yield f"line {line}: {folder} imports {name}"
        if parts[0] != "bitfold" or len(parts) < 2 or parts[1] not in ALLOWED:
            continue
        target = parts[1]
        if target not in ALLOWED[folder]:
            yield f"line {line}: {folder} imports {name}"
        elif (folder, target) == ("passes", "runtime") and not PASSES_MAY_USE & set(parts[2:3]):
            yield f"line {line}: passes import {name}, which is not theirs to use"


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", ALLOWED)
def test_imports_go_one_way(folder):
    files = sources(folder)
    assert files
    found = []
    for path in files:
        package = ".".join(["bitfold", *path.relative_to(ROOT).parent.parts])
        for violation in violations(folder, package, path.read_text(encoding="utf-8")):
            found.append(f"{path.relative_to(ROOT)}, {violation}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("folder", WITHIN_PASSES)
def test_passes_build_on_each_other_one_way(folder):
    files = sources(f"passes/{folder}")
    assert files
    found = []
    for path in files:
        for line, name in imported(path.read_text(encoding="utf-8"), f"bitfold.passes.{folder}"):
            parts = name.split(".")
            others = set(parts[2:3]) & (WITHIN_PASSES.keys() - WITHIN_PASSES[folder])
            if parts[:2] == ["bitfold", "passes"] and others:
                found.append(f"{path.relative_to(ROOT)}, line {line}: {name}")
    assert not found, "\n".join(found)


def test_packages_have_no_source_outside_the_borders():
    """A new package must be given its place in ALLOWED."""
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == {"bitfold", *ALLOWED}


@pytest.mark.parametrize(
    ("folder", "package", "source"),
    [
        ("runtime", "bitfold.runtime", "from bitfold.passes.core.base import Pass"),
        ("runtime", "bitfold.runtime", "import bitfold.frontend"),
        ("runtime", "bitfold.runtime.ops", "from ...passes import core"),
        ("runtime", "bitfold.runtime", "from bitfold import passes"),
        ("models", "bitfold.models", "from bitfold.passes import core"),
        ("passes", "bitfold.passes.core", "def f():\n    from bitfold.models import cache"),
        ("passes", "bitfold.passes.core", "__import__('bitfold.frontend.cli')"),
        ("passes", "bitfold.passes.core", "from bitfold.runtime.session import Session"),
        ("passes", "bitfold.passes.core", "import ctypes"),
    ],
)  # fmt: skip
def test_the_check_sees_every_way_to_import(folder, package, source):
    assert list(violations(folder, package, source))


@pytest.mark.parametrize(
    ("folder", "package", "source"),
    [
        ("frontend", "bitfold.frontend", "from bitfold.runtime.session import Session"),
        ("passes", "bitfold.passes.core", "from bitfold.runtime.formats.scheme import QuantScheme"),
        ("passes", "bitfold.passes.core", "from .base import Pass\nimport bitfold"),
        ("models", "bitfold.models.tiny", "from ..scope import Scope"),
    ],
)
def test_the_check_lets_the_right_imports_be(folder, package, source):
    assert not list(violations(folder, package, source))
