"""Put the page together: one file, with its style and script inside and nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from bitfold.frontend.report import divergence, operators, sections, site_table
from bitfold.frontend.report.command import open_forms, shell_line
from bitfold.frontend.report.markup import join
from bitfold.passes.core.recipe import Recipe
from bitfold.passes.core.report import Report

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Conversion:
    """What the page says about the conversion, beside the report.

    Attributes:
        model: the model's name, as the user gave it.
        output: the file that was written, or empty.
        target: what the result runs on.
        command: the command line that makes it again.
        recipe: the recipe that was run.
        entry: the model's name in the catalogue, where it is of it.
    """

    model: str
    output: str
    target: str
    command: Sequence[str]
    recipe: Recipe
    entry: str = ""


def page(report: Report, conversion: Conversion) -> str:
    """The whole page as HTML.

    It loads nothing, and its policy (a `meta` element) forbids scripts and styles other than its
    own, told by their hashes: a node's name cannot become code even where escaping it failed.
    """
    style, script = _part("page.css"), _part("page.js")
    forms = open_forms(conversion.recipe)
    tickable = forms is not None
    parts = {
        "style": style,
        "script": script,
        "style-hash": _hash(style),
        "script-hash": _hash(script),
        "model": join(conversion.entry or _title(conversion.model)).text,
        "subtitle": join(_subtitle(conversion)).text,
        "summary": sections.summary(report).text,
        "attention": sections.attention(report).text,
        "passes": divergence.passes(report).text,
        "depth": divergence.depth(report).text,
        "operators": operators.operators(report).text,
        "sites": site_table.sites(report, tickable).text,
        "skipped": sections.skipped(report).text,
        "recipe": sections.recipe(shell_line(conversion.command), forms, report.recipe).text,
        "footer": sections.footer(report).text,
    }
    # In one go: what is put in is not searched for places again.
    return re.sub(r"\{\{([a-z-]+)\}\}", lambda found: parts[found[1]], _part("page.html"))


def _title(model: str) -> str:
    """The model's file, or its folder's name where the file is called like any other."""
    path = PurePath(model)
    return path.parent.name if path.name == "model.onnx" and path.parent.name else path.name


def _subtitle(conversion: Conversion) -> str:
    written = f" → {conversion.output}" if conversion.output else ""
    return f"{conversion.model}{written} · target {conversion.target}"


def _part(name: str) -> str:
    return (_FOLDER / name).read_text("utf-8")


def _hash(text: str) -> str:
    """As a content security policy names a text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
