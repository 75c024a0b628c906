"""The section on sites: a table to sort, to filter, and to tick."""

from __future__ import annotations

from bitfold.frontend.figures import counted, size
from bitfold.frontend.report.command import exclusion, text_item, toml_item
from bitfold.frontend.report.markup import Content, Html, element, tag
from bitfold.frontend.report.parts import (
    TIMES_SIGN,
    all_sites,
    cell,
    decibels,
    scroll,
)
from bitfold.passes.core.report import (
    Report,
    SiteRecord,
)

HEAD = {
    "site": None, "kind": None, "shape": "figure", "scheme": None, "before": "figure",
    "after": "figure", "weight SQNR": "figure", "output SQNR": "figure",
}  # fmt: skip
"""Columns of the table, with their class."""


def sites(report: Report, tickable: bool) -> Html:
    """Every quantized site: sortable, filterable, and tickable where the recipe can exclude."""
    records = list(all_sites(report))
    if not records:
        return tag("p", "The recipe quantized nothing.")
    found = {value.node: value.sqnr_db for value in report.values}
    buttons = [
        tag("th", tag("button", name, type="button", class_="sort"), scope="col", class_=class_)
        for name, class_ in HEAD.items()
    ]
    if tickable:
        buttons.insert(0, tag("th", "float", scope="col"))
    rows = [_site_row(index, site, found, tickable) for index, site in enumerate(records)]
    table = tag(
        "table",
        [
            tag("caption", "Sites in low bits", class_="hidden"),
            tag("thead", tag("tr", buttons)),
            tag("tbody", rows),
        ],
        id="sites-table",
    )
    search = tag(
        "label",
        ["Filter ", tag("input", type="search", id="filter", placeholder="name, kind or scheme")],
    )
    count = tag("output", counted(len(records), "site"), id="shown", for_="filter")
    parts: list[Content] = [tag("p", [search, " ", count], class_="controls needs-script")]
    if tickable:
        hint = "Tick sites to keep in float: the command line and the recipe below change with it."
        parts.append(tag("p", hint, class_="needs-script"))
    parts.append(scroll(table, "Sites"))
    return tag("div", parts)


def _site_row(
    index: int, site: SiteRecord, outputs: dict[str, float], tickable: bool
) -> Html:  # fmt: skip
    output = outputs.get(site.site)
    cells = [
        tag("th", tag("code", site.site), scope="row"),
        tag("td", site.kind),
        cell(site.rows * site.columns, f"{site.rows} {TIMES_SIGN} {site.columns}"),
        tag("td", site.scheme, class_="scheme"),
        cell(site.bytes_before, size(site.bytes_before) if site.bytes_before else "shared"),
        cell(site.bytes_after, size(site.bytes_after) if site.bytes_before else "shared"),
        cell(site.sqnr_db, decibels(site.sqnr_db)),
        cell(-1.0 if output is None else output, "-" if output is None else decibels(output)),
    ]
    attributes: dict[str, object] = {"data-index": index}
    if tickable:
        box = tag("input", type="checkbox", aria_label=f"keep {site.site} in float")
        cells.insert(0, tag("td", box))
        attributes |= {
            "data-shell": exclusion(site.site),
            "data-text": text_item(site.site),
            "data-toml": toml_item(site.site),
        }
    return element("tr", attributes, cells)
