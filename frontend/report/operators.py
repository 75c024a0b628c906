"""The section on size and time by operator."""

from __future__ import annotations

from collections.abc import Sequence

from bitfold.frontend.figures import duration, size
from bitfold.frontend.report.markup import Content, Html, tag
from bitfold.frontend.report.measure import TIMES
from bitfold.frontend.report.parts import (
    bar,
    cell,
    missing,
    table,
)
from bitfold.passes.core.report import (
    OpCost,
    Report,
)


def operators(report: Report) -> Html:
    """Nodes, bytes and time by operator, before and after."""
    parts: list[Content] = []
    timed = any(cost.seconds is not None for cost in report.ops)
    if timed:
        parts.append(
            tag(
                "p",
                "Times are from ONNX Runtime's profile of the fastest of a few runs on the first "
                "sample. It fuses operators before it runs them: one may have a time and no "
                "nodes, or nodes and no time.",
            )
        )
    else:
        parts.append(missing("No times", report.unmeasured.get(TIMES, "")))
    size_top = max((max(c.bytes_before, c.bytes) for c in report.ops), default=1) or 1
    time_top = max((max(c.seconds_before or 0, c.seconds or 0) for c in report.ops), default=1) or 1
    shown = [cost for cost in report.ops if _matters(cost, size_top, time_top)]
    rest = [cost for cost in report.ops if cost not in shown]
    head = ["operator", "nodes", "nodes after", "weights", "weights after"]
    head += ["time", "time after"] if timed else []

    def rows(costs: Sequence[OpCost]) -> list[Html]:
        return [_op_row(cost, size_top, time_top, timed) for cost in costs]

    parts.append(table("Operators, the slowest first", head, rows(shown), class_="ops"))
    if rest:
        little = table("Operators that cost next to nothing", head, rows(rest), class_="ops")
        parts.append(tag("details", [tag("summary", f"{len(rest)} that cost little"), little]))
    return tag("div", parts)


def _matters(cost: OpCost, size_top: float, time_top: float) -> bool:
    bytes_, seconds = max(cost.bytes_before, cost.bytes), cost.seconds or 0.0
    return max(bytes_ / size_top, max(cost.seconds_before or 0.0, seconds) / time_top) >= 0.01


def _op_row(cost: OpCost, size_top: float, time_top: float, timed: bool) -> Html:
    cells = [
        tag("th", tag("code", cost.op), scope="row"),
        cell(cost.nodes_before),
        cell(cost.nodes),
        cell(cost.bytes_before, _with_bar(size(cost.bytes_before), cost.bytes_before / size_top)),
        cell(cost.bytes, _with_bar(size(cost.bytes), cost.bytes / size_top)),
    ]
    if timed:
        for seconds in (cost.seconds_before or 0.0, cost.seconds or 0.0):
            cells.append(cell(seconds, _with_bar(duration(seconds), seconds / time_top)))
    return tag("tr", cells)


def _with_bar(text: str, share: float) -> Content:
    return [text if share else "-", *([bar(share, "inline")] if share else [])]
