"""Small parts of the page that several sections share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from bitfold.frontend.figures import number, percent
from bitfold.frontend.report.markup import Content, Html, element, tag
from bitfold.passes.core.report import Divergence, Report, SiteRecord

TIMES_SIGN = "\N{MULTIPLICATION SIGN}"

LISTED = 400
"""Changes of one pass, or sites skipped for one reason, that are listed; the JSON file has all."""


def bar(share: float, class_: str) -> Html:
    """A bar of a share of the whole width, at least visible."""
    width = f"{100 * min(max(share, 0.004), 1.0):.2f}"
    rects = [
        element("rect", {"width": 100, "height": 8, "class": "track"}),
        element("rect", {"width": width, "height": 8, "class": "fill"}),
    ]
    attributes = {
        "viewBox": "0 0 100 8", "preserveAspectRatio": "none", "class": class_,
        "aria-hidden": "true",
    }  # fmt: skip
    return element("svg", attributes, rects)


def described(total: Divergence) -> tuple[str, str]:
    """The outputs' divergence in a few words, and in more."""
    detail = f"SQNR {decibels(total.sqnr_db)}, cosine {total.cosine:.6f}"
    if total.kl is not None:
        return f"KL {number(total.kl, 3)}", f"same top-1 {percent(total.top1)}, {detail}"
    return f"cosine {total.cosine:.5f}", f"SQNR {decibels(total.sqnr_db)}, worst output"


def decibels(value: float) -> str:
    """A ratio in decibels."""
    if math.isinf(value):
        return "∞ dB (equal)" if value > 0 else "-∞ dB"
    return f"{value:.1f} dB"


def all_sites(report: Report) -> Iterator[SiteRecord]:
    """The quantized sites of all passes."""
    return (site for entry in report.passes for site in entry.sites)


def figure(caption: str, plot: Html) -> Html:
    """A plot with its caption."""
    return tag("figure", [tag("figcaption", caption), plot])


def missing(what: str, why: str) -> Html:
    """What is not there, and why."""
    return tag("p", [tag("strong", f"{what}: "), why or "it was not measured", "."])


def cell(value: float, shown: Content = "") -> Html:
    """A cell of a figure; it is sorted by the value, whatever is shown."""
    sortable = value if not math.isinf(value) else math.copysign(1e300, value)
    return tag("td", shown or str(value), class_="figure", data_value=sortable)


def table(
    caption: str, head: Sequence[str], rows: Sequence[Html], class_: str | None = None
) -> Html:
    """A table in a frame that scrolls."""
    columns = [tag("th", name, scope="col", class_=_aligned(name)) for name in head]
    table = tag(
        "table",
        [tag("caption", caption), tag("thead", tag("tr", columns)), tag("tbody", rows)],
        class_=class_,
    )
    return scroll(table, caption)


def _aligned(column: str) -> str | None:
    """The class of a column's head: figures stand to the right."""
    figures = ("node", "weight", "time", "changed", "skipped", "check", "SQNR", "cosine")
    return "figure" if column.startswith(figures) and column != "node" else None


def scroll(table: Html, name: str) -> Html:
    """A frame that scrolls on its own, by keyboard too."""
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=name)
