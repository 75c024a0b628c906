"""The sections on quality: divergence by pass and by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bitfold.frontend.figures import duration, number, percent
from bitfold.frontend.report.markup import Content, Html, tag
from bitfold.frontend.report.measure import NOT_RUN, VALUES
from bitfold.frontend.report.parts import (
    LISTED,
    all_sites,
    cell,
    decibels,
    described,
    figure,
    missing,
    table,
)
from bitfold.frontend.report.plots import Bar, Point, bar_plot, line_plot
from bitfold.passes.core.report import (
    PassEntry,
    Report,
    ValueDivergence,
)

ROUNDING = 7.0
"""Nines of a cosine that float32 tells from 1."""


def passes(report: Report) -> Html:
    """Divergence by pass as a plot, and a table of all passes with what they changed."""
    measured = [(e.name, e.divergence) for e in report.passes if e.divergence is not None]
    if report.total is not None:
        measured.append(("in all", report.total))
    parts: list[Content] = []
    if measured:
        kl = all(found.kl is not None for _, found in measured)
        title = (
            "KL divergence of the logits by pass, in nats: shorter is better"
            if kl
            else "Error of the worst output by pass, in percent of its root mean square"
        )
        bars = [
            Bar(name, found.kl or 0.0, f"KL {number(found.kl, 3)}, top-1 {percent(found.top1)}")
            if kl
            else Bar(
                name,
                10 ** (-found.sqnr_db / 20),
                f"{percent(10 ** (-found.sqnr_db / 20))}, SQNR {decibels(found.sqnr_db)}",
            )
            for name, found in measured
        ]
        parts.append(figure(title, bar_plot(title, bars)))
    else:
        parts.append(missing("No divergence by pass", NOT_RUN))
    rows = [_pass_row(entry) for entry in report.passes]
    head = ("pass", "promise", "status", "changed", "skipped", "time", "check", "effect")
    parts.append(table("Passes in their order", head, rows))
    parts += [_changes(entry) for entry in report.passes if entry.changes]
    return tag("div", parts)


def _pass_row(entry: PassEntry) -> Html:
    effect = "" if entry.divergence is None else " · ".join(described(entry.divergence))
    return tag(
        "tr",
        [
            tag("th", entry.name, scope="row"),
            tag("td", entry.promise),
            tag("td", entry.status, class_="bad" if entry.status == "rolled-back" else None),
            cell(len(entry.changes)),
            cell(len(entry.skips)),
            cell(entry.seconds, duration(entry.seconds)),
            cell(entry.verify_seconds, duration(entry.verify_seconds)),
            tag("td", effect),
        ],
    )


def _changes(entry: PassEntry) -> Html:
    items = [tag("li", [tag("code", n.site), " ", n.text]) for n in entry.changes[:LISTED]]
    rest = len(entry.changes) - LISTED
    if rest > 0:
        items.append(tag("li", f"and {rest} more in report.json"))
    title = f"What {entry.name} changed ({len(entry.changes)})"
    return tag("details", [tag("summary", title), tag("ul", items)])


def depth(report: Report) -> Html:
    """SQNR and cosine of the values inside, along the depth."""
    if not report.values:
        return missing("No divergence by layer", report.unmeasured.get(VALUES, ""))
    sites = {site.site for site in all_sites(report)}
    moved = [value for value in report.values if math.isfinite(value.sqnr_db)]
    if not moved:
        return tag("p", "Every value inside the result is what it was before.")
    heights: list[Point] = []
    nines: list[Point] = []
    for index, value in enumerate(report.values):
        label = f"{value.node} ({value.op}): {decibels(value.sqnr_db)}, cosine {value.cosine:.6f}"
        kind = "site" if value.node in sites else "other"
        heights.append(Point(index, value.sqnr_db, label, kind))
        nines.append(Point(index, _nines(value.cosine), label, kind))
    low = 10 * math.floor(min(0.0, *(v.sqnr_db for v in moved)) / 10)
    high = 10 * math.ceil(max(v.sqnr_db for v in moved) / 10)
    first = "SQNR of the values inside, in decibels, from the first operator to the last"
    second = "Cosine of the values inside, in nines: 3 stands for 0.999"
    lowest = sorted(moved, key=lambda value: value.sqnr_db)[:10]
    return tag(
        "div",
        [
            tag(
                "p",
                "Each model runs on its own from the first sample on, so errors add up along the "
                f"way. {len(report.values)} values that both models name; compared with the "
                "model before the first lossy pass. Filled dots are sites.",
            ),
            figure(first, line_plot(first, "dB", heights, low, max(high, low + 10))),
            figure(second, line_plot(second, "nines", nines, 0.0, ROUNDING)),
            tag("details", [tag("summary", "The ten lowest"), _value_table(lowest)]),
            tag("details", [tag("summary", "All as a table"), _value_table(report.values)]),
        ],
    )


def _nines(cosine: float) -> float:
    return -math.log10(1 - cosine) if cosine < 1 else math.inf


def _value_table(values: Sequence[ValueDivergence]) -> Html:
    rows = [
        tag(
            "tr",
            [
                tag("th", tag("code", value.node), scope="row"),
                tag("td", value.op),
                cell(value.sqnr_db, decibels(value.sqnr_db)),
                cell(value.cosine, f"{value.cosine:.6f}"),
            ],
        )
        for value in values
    ]
    return table("Values by the node that computes them", ("node", "op", "SQNR", "cosine"), rows)
