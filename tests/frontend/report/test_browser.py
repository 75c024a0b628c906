"""The report in a real browser: it works, and what it offers to copy does what it says."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.browser import Browser, find_browser

from bitfold.frontend.cli.main import cli
from bitfold.frontend.emit import write_model
from bitfold.models.tiny import TINY
from bitfold.passes.core.recipe import from_toml, parse_text

pytestmark = pytest.mark.slow

HOSTILE = "</td><script>pwned=1</script><img src=x onerror='pwned=2'>$(touch pwned) it's [0]*\"?"
PASSES = "canonicalize, quantize{weights=int8 group=32}, lower"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a hostile name in it, converted by the command line, with its report."""
    folder = tmp_path_factory.mktemp("report")
    model = TINY["bert"](0)
    sites = [node for node in model.graph if node.op_type == "MatMul"]
    next(node for node in sites if "query" in (node.name or "")).name = HOSTILE
    write_model(model, folder / "float model.onnx")
    words = ["convert", str(folder / "float model.onnx"), "-o", str(folder / "out.onnx")]
    words += ["--passes", PASSES, "--report", str(folder / "report")]
    outcome = CliRunner().invoke(cli, words, prog_name="bitfold")
    assert outcome.exit_code == 0, outcome.output
    return folder


@pytest.fixture(scope="module")
def browser(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium found")
    with Browser(program, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, folder: Path) -> Browser:
    browser.open(folder / "report" / "report.html")
    return browser


def names(page: Browser, where: str = "") -> list[str]:
    script = f"[...document.querySelectorAll('#sites-table tbody tr{where} th')]"
    return list(page.run(f"{script}.map((cell) => cell.textContent)"))


def tick(page: Browser, name: str) -> None:
    rows = "[...document.querySelectorAll('#sites-table tbody tr')]"
    row = f"{rows}.find((row) => row.querySelector('th').textContent === {json.dumps(name)})"
    page.run(f"{row}.querySelector('input').click()")


def text(page: Browser, name: str) -> str:
    return str(page.run(f"document.getElementById('{name}').textContent"))


def test_loads_alone_and_without_complaint(page: Browser, folder: Path) -> None:
    assert page.complaints() == []
    assert page.requests() == [(folder / "report" / "report.html").resolve().as_uri()]
    assert page.run("typeof pwned") == "undefined"
    assert page.run("document.images.length") == 0
    assert page.run("document.title") == "float model.onnx · bitfold report"
    assert HOSTILE in names(page)
    assert page.run("document.querySelectorAll('svg[role=img]').length") == 3
    assert page.run("document.querySelectorAll('circle.dot').length") > 20
    # Nothing sticks out of the page's sides, on a phone either.
    page.send(
        "Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1,
        mobile=True,
    )  # fmt: skip
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    page.send("Emulation.clearDeviceMetricsOverride")


def test_ticked_sites_change_what_can_be_copied(page: Browser, folder: Path) -> None:
    command, recipe, toml = (text(page, n) for n in ("command", "recipe-text", "recipe-toml"))
    assert parse_text(recipe) == from_toml(toml) == parse_text(PASSES)
    assert page.run("document.getElementById('ticked').hidden") is True
    other = next(name for name in names(page) if "layer.1" in name and "query" in name)
    tick(page, HOSTILE)
    assert text(page, "ticked-text") == "1 site stays in float"
    tick(page, other)
    assert text(page, "ticked-text") == "2 sites stay in float"
    changed = parse_text(text(page, "recipe-text"))
    assert changed == from_toml(text(page, "recipe-toml"))
    assert (
        len(next(getattr(item, "exclude", ()) for item in changed if item.name == "quantize")) == 2
    )

    words = shlex.split(text(page, "command").replace("\\\n", " "))
    assert words[:3] == ["bitfold", "convert", str(folder / "float model.onnx")]
    outcome = CliRunner().invoke(cli, words[1:], prog_name="bitfold")
    assert outcome.exit_code == 0, outcome.output
    assert "warning" not in outcome.output
    report = json.loads((folder / "report" / "report.json").read_text("utf-8"))
    sites = {site["site"] for entry in report["passes"] for site in entry["sites"]}
    assert sites
    assert sites == set(names(page)) - {HOSTILE, other}

    page.run("document.getElementById('untick').click()")
    assert (text(page, "command"), text(page, "recipe-text")) == (command, recipe)
    assert text(page, "recipe-toml") == toml
    assert page.run("document.getElementById('ticked').hidden") is True


def test_sorts_and_filters(page: Browser) -> None:
    first = names(page)
    heads = "[...document.querySelectorAll('#sites-table thead th')]"
    column = f"{heads}.find((head) => head.textContent === 'weight SQNR')"
    values = (
        "[...document.querySelectorAll('#sites-table tbody tr')]"
        f".map((row) => Number(row.cells[{column}.cellIndex].dataset.value))"
    )
    page.run(f"{column}.querySelector('button').click()")
    assert page.run(f"{column}.getAttribute('aria-sort')") == "ascending"
    ascending = page.run(values)
    assert ascending == sorted(ascending)
    assert len(set(ascending)) > 3
    page.run(f"{column}.querySelector('button').click()")
    assert page.run(f"{column}.getAttribute('aria-sort')") == "descending"
    assert page.run(values) == sorted(ascending, reverse=True)
    page.run(f"{heads}[1].querySelector('button').click()")
    assert page.run("document.querySelectorAll('[aria-sort]').length") == 1
    assert sorted(names(page)) == sorted(first)

    page.run(
        "const box = document.getElementById('filter'); box.value = 'LAYER.1'; "
        "box.dispatchEvent(new Event('input'))"
    )
    shown = names(page, ":not([hidden])")
    assert sorted(shown) == sorted(name for name in first if "layer.1" in name.lower())
    assert text(page, "shown") == f"{len(shown)} of {len(first)} sites"


def test_copies(page: Browser) -> None:
    origin = page.run("location.origin")
    page.send("Page.bringToFront")
    page.send(
        "Browser.grantPermissions",
        permissions=["clipboardReadWrite", "clipboardSanitizedWrite"],
        **({} if origin == "null" else {"origin": origin}),
    )
    page.run("document.querySelector('button[data-copy=recipe-text]').click()")
    page.run("new Promise((done) => setTimeout(done, 300))")
    label = page.run("document.querySelector('button[data-copy=recipe-text]').textContent")
    assert label in ("Copied", "Selected")
    if label == "Copied":
        assert page.run("navigator.clipboard.readText()") == text(page, "recipe-text")


def test_follows_the_scheme_and_needs_no_script(page: Browser, folder: Path) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.send("Emulation.setEmulatedMedia", features=features)
        colours[scheme] = [
            sum(map(int, page.run(f"getComputedStyle(document.body).{what}")[4:-1].split(", ")))
            for what in ("backgroundColor", "color")
        ]
    assert colours["light"][0] > colours["light"][1] + 400
    assert colours["dark"][1] > colours["dark"][0] + 400
    page.send("Emulation.setScriptExecutionDisabled", value=True)
    page.open(folder / "report" / "report.html")
    page.send("Emulation.setScriptExecutionDisabled", value=False)
    assert page.run("document.documentElement.classList.contains('scripted')") is False
    assert page.run("document.getElementById('filter').offsetParent") is None
    assert page.run("document.querySelector('#sites-table tbody tr th').offsetParent !== null")
