"""The page: complete, self-contained, and safe against what a model's author wrote into names."""

from __future__ import annotations

import base64
import hashlib
import math
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

import bitfold
from bitfold.frontend.report import measure
from bitfold.frontend.report.html import Conversion, page
from bitfold.frontend.report.markup import Html, element, join, tag
from bitfold.frontend.report.parts import TIMES_SIGN
from bitfold.frontend.report.plots import Bar, Point, bar_plot, line_plot, ticks
from bitfold.models.tiny import TINY
from bitfold.passes.core.recipe import parse_text
from bitfold.passes.core.report import (
    Divergence,
    OpCost,
    PassEntry,
    Report,
    SiteRecord,
    ValueDivergence,
)
from bitfold.runtime.errors import UnsupportedError

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \"' {{style}} [0]*"
TEXT = "canonicalize, quantize{weights=int8 group=32}, lower"


class Page(HTMLParser):
    """Checks the nesting of elements, and gathers what tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.inside: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[name] += 1
        self.attributes += [(name, key, value or "") for key, value in attributes]
        if name != "meta":
            self.open.append(name)

    def handle_startendtag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[name] += 1
        self.attributes += [(name, key, value or "") for key, value in attributes]

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("style", "script"):
            self.inside[self.open[-1]] = data
        else:
            self.text.append(data)

    def all_text(self) -> str:
        return " ".join(" ".join(self.text).split())


def report() -> Report:
    made = Report(TEXT, 0, {"bitfold": "1"}, seconds=12.0)
    entry = PassEntry("quantize", {}, "lossy", "applied", 0.5, 0.1)
    entry.divergence = Divergence(30.0, 0.9995, 0.1)
    entry.changed(HOSTILE, f"changed {HOSTILE}")
    entry.skipped(HOSTILE, f"skipped {HOSTILE}")
    entry.note(HOSTILE)
    entry.sites.append(SiteRecord(HOSTILE, "matmul", 64, 32, HOSTILE, 8192, 2048, 40.0))
    entry.sites.append(SiteRecord("tied", "gather", 64, 32, "int8", 0, 0, math.inf))
    broken = PassEntry("fold", {}, "exact", "rolled-back", culprit=HOSTILE)
    made.passes += [broken, entry]
    made.total = Divergence(29.0, 0.9994, 0.1)
    made.ops = [
        OpCost(HOSTILE, 3, 0, 9000, 0, 0.002, 0.0),
        OpCost("New", 0, 3, 0, 3000, 0.0, 0.001),
    ]
    made.values = [
        ValueDivergence("v", HOSTILE, HOSTILE, 35.0, 0.9997),
        ValueDivergence("w", "equal", "Add", math.inf, 1.0),
        ValueDivergence("z", "zero", "Mul", -math.inf, 0.0),
    ]
    made.notes.append(HOSTILE)
    return made


def conversion(text: str = TEXT) -> Conversion:
    return Conversion(HOSTILE, "out.onnx", "native", ["bitfold", HOSTILE], parse_text(text))


def test_names_stay_text() -> None:
    text = page(report(), conversion())
    found = Page(text)
    assert found.tags["script"] == 1
    assert found.tags["img"] == 0
    assert "alert(" not in found.inside["script"]
    assert not any(key.startswith("on") for _, key, _ in found.attributes)
    assert found.all_text().count(HOSTILE) >= 8
    assert "{{" not in text.replace("{{style}}", "")
    for key in ("data-shell", "data-text", "data-toml"):
        assert any(name == "tr" and attribute == key for name, attribute, _ in found.attributes)


def test_loads_nothing_and_runs_its_own_script_alone() -> None:
    found = Page(page(report(), conversion()))
    linked = [v for _, key, v in found.attributes if key in ("src", "href", "action", "data")]
    assert linked
    assert all(value.startswith("#") for value in linked)
    ids = [value for _, key, value in found.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for value in linked} <= set(ids)
    for style in ("@import", "url("):
        assert style not in found.inside["style"]
    policy = next(v for _, key, v in found.attributes if key == "content" and "default-src" in v)
    assert "default-src 'none'" in policy
    for name in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(found.inside[name].encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert not any(key == "style" for _, key, _ in found.attributes)  # the policy forbids them


def test_skips_for_one_reason_stand_together() -> None:
    made = report()
    entry = made.passes[-1]
    for number in range(3):
        entry.skipped(f"small {number}", "its weight is too small", f"{number} x 5")
    found = Page(page(made, conversion()))
    text = found.all_text()
    assert f"quantize 3 {TIMES_SIGN} its weight is too small" in text
    assert text.count("its weight is too small") == 1
    assert "small 0 0 x 5" in text
    assert "small 2 2 x 5" in text


def test_says_what_there_is() -> None:
    text = Page(page(report(), conversion())).all_text()
    for expected in (
        f"3.0{TIMES_SIGN} smaller", "9.0 kB → 3.0 kB", f"2.00{TIMES_SIGN} faster",
        "2 ms → 1 ms", "cosine 0.99940",
        "2 in low bits", "was undone", "29.0 dB", f"64 {TIMES_SIGN} 32", "shared", "∞ dB (equal)",
    ):  # fmt: skip
        assert expected in text, expected


def test_says_why_parts_are_missing() -> None:
    made = report()
    made.total, made.values = None, []
    made.passes[1].divergence = None
    for cost in made.ops:
        cost.seconds = cost.seconds_before = None
    made.unmeasured = {"times": "no clock", "values": "no samples"}
    found = Page(page(made, conversion()))
    assert found.all_text().count("not measured") == 2
    for expected in ("No times: no clock.", "No divergence by layer: no samples."):
        assert expected in " ".join(found.all_text().split()).replace(" .", ".")
    assert ("svg", "role", "img") not in found.attributes


def test_a_recipe_without_exclusions_has_no_boxes() -> None:
    found = Page(page(report(), conversion("canonicalize, lower")))
    assert ("input", "type", "checkbox") not in found.attributes
    assert "sites-table" in [value for _, key, value in found.attributes if key == "id"]


@pytest.mark.parametrize("verify", ["off", "fast"])
def test_a_conversion_writes_it(tmp_path: Path, verify: str) -> None:
    model = TINY["bert"](0)
    result = bitfold.convert(model, passes=TEXT, report=tmp_path, verify=verify)  # type: ignore[arg-type]
    text = Page((tmp_path / "report.html").read_text("utf-8")).all_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]
    sites = [site for entry in result.report.passes for site in entry.sites]
    assert f"{len(sites)} in low bits" in text
    assert sum(cost.bytes for cost in result.report.ops) < model_bytes(model) / 2
    assert sum(cost.bytes_before for cost in result.report.ops) == model_bytes(model)
    measured = verify == "fast"
    assert bool(result.report.values) == measured
    assert ("nothing was run" in text) == (not measured)
    if measured:
        assert {cost.seconds is None for cost in result.report.ops} == {False}
        names = {value.node for value in result.report.values}
        assert len(names & {site.site for site in sites}) > len(sites) / 2
        assert result.report.values[0].cosine > 0.999
        assert all(value.cosine <= 1 for value in result.report.values)


def model_bytes(model: object) -> int:
    graph = model.graph  # type: ignore[attr-defined]
    return sum(value.const_value.nbytes for value in graph.initializers.values())


def test_markup() -> None:
    assert tag("p", ["a<b", Html("<i>&amp;</i>")]).text == "<p>a&lt;b<i>&amp;</i></p>"
    assert tag("td", data_value=1.5, hidden=True, class_=None).text == (
        '<td data-value="1.5" hidden></td>'
    )
    assert element("rect", {"a": "\"'<"}).text == '<rect a="&quot;&#x27;&lt;"/>'
    assert join([["a", []], "b"]).text == "ab"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 50, [0, 10, 20, 30, 40, 50]),
        (-10, 40, [-10, 0, 10, 20, 30, 40]),
        (0, 7, [0, 2, 4, 6]),
        (0, 0.05, [0, 0.01, 0.02, 0.03, 0.04, 0.05]),
        (3, 3, [3]),
    ],
)
def test_ticks(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_plots_place_points() -> None:
    points = [Point(0, 0.0, "low"), Point(1, math.inf, "equal"), Point(2, 99.0, "above", "site")]
    found = Page(line_plot("t", "dB", points, 0.0, 50.0).text)
    dots = [value for name, key, value in found.attributes if name == "circle" and key == "cy"]
    assert [float(y) for y in dots] == [226.0, 14.0]  # the axis's ends
    assert ("circle", "class", "dot site") in found.attributes
    bars = [Bar("a", 0.5, "half"), Bar("b" * 99, 1.0, "whole"), Bar("c", math.nan, "none")]
    found = Page(bar_plot("t", bars).text)
    widths = [float(v) for name, key, v in found.attributes if name == "rect" and key == "width"]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.1)
    assert widths[2] == 1.5


def test_tells_when_function_bodies_were_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Path:
        raise UnsupportedError("not built")

    monkeypatch.setattr(measure, "op_library_path", missing)
    result = bitfold.convert(TINY["bert"](0), passes=TEXT, report=tmp_path)
    assert measure.NO_LIBRARY in result.report.notes
    floats = bitfold.convert(TINY["bert"](0), passes="canonicalize", report=tmp_path)
    assert measure.NO_LIBRARY not in floats.report.notes
    assert floats.report.ops
