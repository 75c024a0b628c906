"""From a reference in a recipe to the pass class, or to the foreign pass, that it means."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from bitfold.runtime.errors import RecipeError

_WRITTEN_AS = "__bitfold_reference__"
"""Module attribute: the path as the user wrote it, so that a recipe prints it unchanged."""


def resolve(reference: str, where: str, *, allow_code: bool = True) -> Any:
    """Find what ``reference`` names: a registered pass, ``module:attribute``, ``path.py:Class``.

    Args:
        allow_code: whether references to code outside bitfold may be followed.  Importing runs
            code, so a recipe that came inside a model must not name it unasked.

    Raises:
        RecipeError: nothing has this name, or it cannot be imported.
    """
    if ":" not in reference:
        return _registered(reference, where)
    location, _, attribute = reference.rpartition(":")
    if not allow_code and location.split(".")[0] != "bitfold":
        raise RecipeError(
            f"{where}: {reference!r} names code outside bitfold, and this recipe came with a "
            "model; expected registered passes",
            hint="copy the recipe into a file and pass that, if you trust its origin",
        )
    module = _load_file(location, where) if location.endswith(".py") else _load(location, where)
    target: Any = module
    for part in attribute.split("."):
        if not hasattr(target, part):
            near = difflib.get_close_matches(part, dir(target), n=1)
            raise RecipeError(
                f"{where}: {location!r} has no {part!r}",
                hint=f"did you mean {near[0]!r}?" if near else "",
            )
        target = getattr(target, part)
    return target


def reference_of(cls: type) -> str:
    """How recipes write a pass class: its registered name, or where it is defined."""
    from bitfold.passes.registry import find

    name = str(getattr(cls, "name", ""))
    if find(name) is cls:
        return name
    module = sys.modules.get(cls.__module__)
    written = getattr(module, _WRITTEN_AS, cls.__module__)
    if module is not None and getattr(module, cls.__qualname__.split(".")[0], None) is not None:
        return f"{written}:{cls.__qualname__}"
    return name or cls.__qualname__


def _registered(name: str, where: str) -> Any:
    from bitfold.passes.registry import PASSES, find

    cls = find(name)
    if cls is None:
        known = [p.name for p in PASSES]
        near = difflib.get_close_matches(name, known, n=1)
        raise RecipeError(
            f"{where}: unknown pass; expected one of: {', '.join(known)}, or module:attribute",
            hint=f"did you mean {near[0]!r}?" if near else "",
        )
    return cls


def _load(module: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise RecipeError(f"{where}: cannot import {module!r}: {error}") from error


def _load_file(written: str, where: str) -> ModuleType:
    path = Path(written).expanduser().resolve()
    if not path.is_file():
        raise RecipeError(f"{where}: there is no file {written!r}")
    # One module a file: the same class is the same object however often it is named.
    name = f"bitfold_user_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RecipeError(f"{where}: {written!r} is no Python file")
    module = importlib.util.module_from_spec(spec)
    setattr(module, _WRITTEN_AS, written)
    sys.modules[name] = module  # dataclasses look their module up while it is being run
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise RecipeError(f"{where}: {written!r} cannot be run: {error}") from error
    return module
