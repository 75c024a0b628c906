"""The page's other sections, one function each: from the report to markup."""

from __future__ import annotations

from bitfold.frontend.figures import duration, size
from bitfold.frontend.report.command import Open
from bitfold.frontend.report.markup import Content, Html, element, tag
from bitfold.frontend.report.measure import NOT_RUN, TIMES
from bitfold.frontend.report.parts import (
    LISTED,
    TIMES_SIGN,
    all_sites,
    bar,
    described,
)
from bitfold.passes.core.report import Note, Report


def summary(report: Report) -> Html:
    """Cards: size, outputs, time, sites."""
    before = sum(cost.bytes_before for cost in report.ops)
    after = sum(cost.bytes for cost in report.ops)
    cards = [
        _card(
            "Weights",
            f"{before / after:.1f}{TIMES_SIGN} smaller" if after and before else size(after),
            f"{size(before)} → {size(after)}",
            after / before if before else None,
        )
    ]
    if report.total is not None:
        head, detail = described(report.total)
        cards.append(_card("Outputs on the samples", head, detail))
    else:
        cards.append(_card("Outputs on the samples", "not measured", NOT_RUN))
    slow = sum(cost.seconds_before or 0.0 for cost in report.ops)
    fast = sum(cost.seconds or 0.0 for cost in report.ops)
    if slow and fast:
        head = (
            f"{slow / fast:.2f}{TIMES_SIGN} faster"
            if slow >= fast
            else f"{fast / slow:.2f}{TIMES_SIGN} slower"
        )
        detail = f"{duration(slow)} → {duration(fast)} in operators, first sample"
        cards.append(_card("Time of a run", head, detail, min(fast / slow, 1.0)))
    else:
        cards.append(_card("Time of a run", "not measured", report.unmeasured.get(TIMES, "")))
    sites = list(all_sites(report))
    skipped = sum(len(entry.skips) for entry in report.passes if entry.sites)
    head = f"{len(sites)} in low bits" if sites else "none in low bits"
    cards.append(_card("Sites", head, f"{skipped} left alone, each with its reason below"))
    return tag("div", cards, class_="cards")


def _card(title: str, head: str, detail: str, share: float | None = None) -> Html:
    parts: list[Content] = [
        tag("h3", title), tag("p", head, class_="head"), tag("p", detail, class_="detail")
    ]  # fmt: skip
    if share is not None:
        parts.append(bar(share, "share"))
    return tag("section", parts, class_="card")


def attention(report: Report) -> Html:
    """What was rolled back, and what passes note."""
    items: list[Html] = []
    for entry in report.rolled_back:
        text = f"an exact pass moved the outputs, and was undone: {entry.culprit}"
        items.append(tag("li", [tag("strong", entry.name), " ", text], class_="bad"))
    items += [tag("li", note) for note in report.notes]
    for entry in report.passes:
        items += [tag("li", [tag("strong", entry.name), " ", note]) for note in entry.notes]
    if not items:
        return tag("p", "Every pass kept its promise, and none had anything to note.")
    notes = tag("ul", items, class_="notes")
    if not report.timings:
        return notes
    timed = [tag("li", timing) for timing in report.timings]
    head = tag("summary", "Times of each site's alternatives, alone")
    return tag("div", [notes, tag("details", [head, tag("ul", timed)])])


def skipped(report: Report) -> Html:
    """What each pass left alone, by its reason."""
    parts: list[Html] = []
    for entry in report.passes:
        reasons: dict[str, list[Note]] = {}
        for skip in entry.skips:
            reasons.setdefault(skip.text, []).append(skip)
        for reason, skips in sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0])):
            head: list[Content] = [
                tag("strong", entry.name),
                f" {len(skips)} {TIMES_SIGN} ",
                reason,
            ]
            listed = [tag("li", [tag("code", s.site), " ", s.detail]) for s in skips[:LISTED]]
            if len(skips) > LISTED:
                listed.append(tag("li", f"and {len(skips) - LISTED} more in report.json"))
            parts.append(tag("details", [tag("summary", head), tag("ul", listed)]))
    return tag("div", parts) if parts else tag("p", "Nothing was skipped.")


def recipe(command: str, forms: tuple[Open, Open] | None, text: str) -> Html:
    """The command line, and the recipe as text and TOML, each with a button to copy it."""
    parts: list[Content] = [_copyable("command", "Command line", command)]
    if forms is None:
        parts.append(_copyable("recipe-text", "Recipe as text", text))
    else:
        for name, title, form in (
            ("recipe-text", "Recipe as text (for --passes)", forms[0]),
            ("recipe-toml", "Recipe as TOML (for --recipe)", forms[1]),
        ):
            parts.append(_copyable(name, title, form.text, form))
    return tag("div", parts)


def _copyable(name: str, title: str, text: str, form: Open | None = None) -> Html:
    button = tag("button", "Copy", type="button", data_copy=name, class_="needs-script")
    attributes: dict[str, object] = {"id": name, "tabindex": 0}
    if form is not None:
        attributes |= {"data-template": form.template, "data-mark": form.quoted}
    head = tag("div", [tag("h3", title), button], class_="copy-head")
    return tag("div", [head, element("pre", attributes, text)], class_="copyable")


def footer(report: Report) -> Html:
    """Versions and seed: what a second run needs to give the same bytes."""
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return tag("p", f"{versions}; seed {report.seed}; {duration(report.seconds)} in all.")
