"""A picture of a model's channel spaces: one page that stands alone.

The graph runs from top to bottom, a row for each operator that reads, writes, joins or bends
channels.  Every space is a band from its first writer to its last reader; what reads one band and
writes another is a line from the first to the second.  Layers that repeat are drawn once.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from bitfold.frontend.report.markup import Content, Html, element, join, tag
from bitfold.frontend.report.space_rows import Band, Picture, Row
from bitfold.passes.analysis.spaces import kinds

ROW, LANE, LEFT, TOP = 22, 46, 26, 30
"""Height of a row, width of a band's lane, and margins, in pixels."""
STARTS, LETTER, AFTER = 400, 6.9, 130
"""Where, beside the bands, their names stand, width of a letter, and room for marks of repeats."""
COLORS = dict(
    zip(
        kinds.KINDS,
        ("#3f7ad6", "#c9822b", "#2f9e63", "#9b59b6", "#8e6bbf", "#1f9aa8", "#5b9c2f", "#6d8fb3",
         "#7a8b99", "#999999", "#b0a37a"),
        strict=True,
    )
)  # fmt: skip
"""One for each kind of space, legible on both a light and a dark page."""

_CHANGES = (
    "What may be done to the channels of a space, in the weights that write and read them, and "
    "leaves what the model computes: rotate mixes them by an orthogonal matrix, scale multiplies "
    "each by a positive number, permute reorders them, center subtracts their mean. A space of "
    "several parts has each changed by itself; online: by an operator as the model runs; "
    "after a pass: once that has taken away what is in the way."
)

_STYLE = Path(__file__).with_name("spaces.css")


def page(model: str, picture: Picture, note: str) -> str:
    """The whole page as HTML; it loads nothing, and runs nothing.

    Args:
        note: what the picture is of, in a sentence.
    """
    chips = "".join(f".c{i} {{ background: {c}; }}" for i, c in enumerate(COLORS.values()))
    style = _STYLE.read_text("utf-8") + chips
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = [
        element("meta", {"charset": "utf-8"}),
        element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("meta", {"http-equiv": "Content-Security-Policy", "content": policy}),
        tag("title", f"{model} · channel spaces"),
        Html(f"<style>{style}</style>"),
    ]
    how = (
        "Each coloured band is a channel space: one coordinate system, from what writes it first "
        "to what reads it last. A line leaves the band that an operator reads and ends with an "
        "arrow at the band that it writes; a bar on a band is an operator that its channels pass "
        "through. Rest the pointer on a band to see what may be done to "
        "it, and on a row for the operator's name."
    )
    body = [
        tag("h1", model),
        tag("p", note),
        tag("p", how),
        tag("div", _svg(picture), class_="frame"),
        tag("h2", "The spaces"),
        tag("p", _CHANGES),
        tag("div", _table(picture), class_="frame"),
    ]
    page = tag("html", [tag("head", head), tag("body", body)], lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def _svg(picture: Picture) -> Html:
    lanes = max((band.lane for band in picture.bands), default=0) + 1
    text = LEFT + lanes * LANE + 14
    longest = max((len(f"{band.label} {band.may}") for band in picture.bands), default=0)
    bracket = text + STARTS + round(longest * LETTER) + 24
    width = bracket + AFTER
    names = _named_at(picture.bands)
    height = TOP + max(len(picture.rows), *(at + 1 for at in names)) * ROW + 24
    parts: list[Content] = [
        element("text", {"x": LEFT, "y": 18, "class": "soft"}, "inputs"),
        element("text", {"x": LEFT, "y": height - 6, "class": "soft"}, "outputs"),
        *(_band(band) for band in picture.bands),
        *(_row(row, picture, text, width) for row in picture.rows),
        *(_name(band, at, text) for band, at in zip(picture.bands, names, strict=True)),
        *(_again(first, last, label, bracket) for first, last, label in picture.repeats),
    ]
    title = "Channel spaces from inputs to outputs"
    return element(
        "svg",
        {"width": width, "height": height, "viewBox": f"0 0 {width} {height}", "role": "img",
         "aria-label": title},
        parts,
    )  # fmt: skip


def _band(band: Band) -> Html:
    x, wide = _x(band.lane), band.width
    top, bottom = _y(band.first) - ROW * 0.42, _y(band.last) + ROW * 0.42
    color = COLORS[band.kind]
    parts: list[Content] = [
        tag("title", band.told),
        element("rect", {"x": f"{x - wide / 2:.1f}", "y": f"{top:.1f}", "width": f"{wide:.1f}",
                         "height": f"{bottom - top:.1f}", "rx": 5, "fill": color}),
    ]  # fmt: skip
    return tag("g", parts, class_="band")


def _named_at(bands: Sequence[Band]) -> list[int]:
    """The row that each band's name stands in: where it starts, or below others that start there.

    Bands come in the order of their first rows.
    """
    found: list[int] = []
    for band in bands:
        found.append(max(band.first, found[-1] + 1 if found else 0))
    return found


def _name(band: Band, at: int, text: int) -> Html:
    parts: list[Content] = [
        element("tspan", {"fill": COLORS[band.kind]}, f"\u25ae {band.label}"),
        element("tspan", {"fill": "var(--soft)"}, f"  {band.may}"),
    ]
    return element("text", {"x": text + STARTS, "y": f"{_y(at) + 4.5:.1f}"}, parts)


def _row(row: Row, picture: Picture, text: int, width: int) -> Html:
    y = _y(row.at)
    parts: list[Content] = [
        tag("title", row.told),
        element("rect", {"x": text - 8, "y": f"{y - ROW / 2:.1f}", "width": width - text,
                         "height": ROW, "class": "hit"}),
    ]  # fmt: skip
    bands = picture.bands
    ends = [bands[number].lane for number in (*row.reads, *row.writes)]
    for number in row.reads:
        x, color = _x(bands[number].lane), COLORS[bands[number].kind]
        parts.append(element("circle", {"cx": x, "cy": y, "r": 4, "class": "mark"}))
        for written in row.writes:
            other = _x(bands[written].lane)
            lift = -ROW * 0.3 if other != x else 0
            path = f"M{x},{y} C{x + 10},{y + lift:.1f} {other - 10},{y + lift:.1f} {other},{y}"
            parts.append(element("path", {"d": path, "class": "read", "stroke": color}))
    for number in row.writes:
        x, color = _x(bands[number].lane), COLORS[bands[number].kind]
        side = -1 if any(_x(bands[other].lane) < x for other in row.reads) or not row.reads else 1
        if not row.reads:
            path = f"M{x - 20},{y} L{x},{y}"
            parts.append(element("path", {"d": path, "class": "write", "stroke": color}))
        head = f"M{x + 3 * -side},{y} L{x + 10 * side},{y - 5} L{x + 10 * side},{y + 5} Z"
        parts.append(element("path", {"d": head, "class": "mark"}))
    for number in row.carries:
        x = _x(bands[number].lane)
        ends.append(bands[number].lane)
        shape = {"x": x - 9, "y": f"{y - 3:.1f}", "width": 18, "height": 6, "rx": 2}
        parts.append(element("rect", {**shape, "class": "mark"}))
    if ends:
        start = _x(max(ends)) + 16
        line = {"x1": f"{start}", "x2": text - 6, "y1": y, "y2": y, "stroke": "var(--line)"}
        parts.append(element("line", line))
    parts.append(
        element("text", {"x": text, "y": f"{y + 4.5:.1f}", "class": None if row.linear else "soft"},
                [row.label, element("tspan", {"fill": "var(--soft)"}, f"  {row.detail}")])
    )  # fmt: skip
    return tag("g", parts, class_="row")


def _again(first: int, last: int, label: str, x: int) -> Html:
    top, bottom = _y(first) - ROW / 2 + 3, _y(last) + ROW / 2 - 3
    path = f"M{x - 8},{top} L{x},{top} L{x},{bottom} L{x - 8},{bottom}"
    middle = (top + bottom) / 2 + 4
    return tag(
        "g",
        [
            element("path", {"d": path, "class": "again"}),
            element("text", {"x": x + 10, "y": f"{middle:.1f}"}, label),
        ],
    )


def _table(picture: Picture) -> Html:
    heads = ("space", "channels", "writers", "readers", *picture.changes, "why not more")
    rows = []
    for line in picture.lines:
        first = line.spaces[0]
        chip = tag("span", class_=f"chip c{kinds.KINDS.index(first.kind)}")
        cells: list[Html] = [
            tag("td", [chip, line.title, Html("<br>"), tag("span", line.name, class_="no")]),
            tag("td", line.channels, class_="figure"),
            tag("td", str(len(first.writers)), class_="figure"),
            tag("td", str(len(first.readers)), class_="figure"),
        ]
        for change in picture.changes:
            word = first.verdicts[change].word
            cells.append(tag("td", word, class_="yes" if word.startswith("yes") else "no"))
        cells.append(tag("td", _lines(line.why_not())))
        rows.append(tag("tr", cells))
    head = tag("tr", [tag("th", name, scope="col") for name in heads])
    return tag("table", [tag("thead", head), tag("tbody", rows)])


def _lines(texts: Sequence[str]) -> Content:
    return [part for text in texts for part in (join(text), Html("<br>"))][:-1]


def _x(lane: int) -> int:
    return LEFT + lane * LANE + LANE // 2


def _y(row: int) -> int:
    return TOP + row * ROW + ROW // 2
