"""Plots as inline SVG: drawn once, readable without a script, each with a text for who cannot see.

Colours are the page's (`currentColor` and custom properties), so that plots follow its scheme.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bitfold.frontend.figures import number
from bitfold.frontend.report.markup import Html, element, tag

WIDTH, HEIGHT = 900, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 14, 34


@dataclass(frozen=True)
class Point:
    """One point of a plot along the depth.

    Attributes:
        x: its place along the axis.
        y: its value; a point that is not finite is left out.
        label: what a pointer that rests on it shows.
        kind: its class in the style sheet.
    """

    x: float
    y: float
    label: str
    kind: str = ""


def line_plot(title: str, axis: str, points: Sequence[Point], low: float, high: float) -> Html:
    """A line through points from left to right.

    Args:
        title: what the plot shows, in words.
        axis: the vertical axis's name and unit.
        points: in the order of x.
        low: lowest value of the axis; values beyond either end are drawn at it.
        high: the highest.
    """
    drawn = [point for point in points if math.isfinite(point.y)]
    last = max((point.x for point in points), default=1.0) or 1.0
    across = _scale(0, last, LEFT + 6, WIDTH - RIGHT - 6)
    down = _scale(low, high, HEIGHT - BOTTOM, TOP)
    places = [(across(p.x), down(min(max(p.y, low), high))) for p in drawn]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = [
        element(
            "circle",
            {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": 3.2, "class": f"dot {point.kind}".strip()},
            [tag("title", point.label)],
        )
        for (x, y), point in zip(places, drawn, strict=True)
    ]
    body = [
        tag("title", title),
        *_grid(axis, low, high, down),
        element("text", {"x": LEFT, "y": HEIGHT - 8, "class": "axis"}, "first operator"),
        element(
            "text",
            {"x": WIDTH - RIGHT, "y": HEIGHT - 8, "class": "axis", "text-anchor": "end"},
            "last operator",
        ),
        element("polyline", {"points": path, "class": "curve"}),
        *dots,
    ]
    return _svg(title, HEIGHT, body)


@dataclass(frozen=True)
class Bar:
    """One bar: its name, its length, and the text at its end."""

    name: str
    value: float
    text: str


def bar_plot(title: str, bars: Sequence[Bar]) -> Html:
    """Horizontal bars, one below the other, from zero."""
    top = max((bar.value for bar in bars if math.isfinite(bar.value)), default=1.0) or 1.0
    start, row = 250, 30
    length = _scale(0, top, 0, WIDTH - start - 240)
    body: list[Html] = [tag("title", title)]
    for index, bar in enumerate(bars):
        y = index * row + 6
        wide = length(min(max(bar.value, 0.0), top)) if not math.isnan(bar.value) else 0.0
        body += [
            element(
                "text",
                {"x": start - 10, "y": y + 14, "text-anchor": "end", "class": "label"},
                _short(bar.name, 34),
            ),
            element(
                "rect",
                {"x": start, "y": y, "width": f"{max(wide, 1.5):.1f}", "height": 18, "rx": 3},
            ),
            element(
                "text", {"x": f"{start + max(wide, 1.5) + 8:.1f}", "y": y + 14, "class": "label"},
                bar.text,
            ),
        ]  # fmt: skip
    return _svg(title, len(bars) * row + 10, body)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from low to high: steps of 1, 2 or 5 times a power of ten."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    raw = span / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _svg(title: str, height: int, body: Sequence[Html]) -> Html:
    attributes = {"viewBox": f"0 0 {WIDTH} {height}", "role": "img", "aria-label": title}
    return element("svg", attributes, list(body))


def _grid(axis: str, low: float, high: float, down: Callable[[float], float]) -> list[Html]:
    parts = [element("text", {"x": LEFT, "y": TOP - 3, "class": "axis"}, axis)]
    for value in ticks(low, high):
        y = f"{down(value):.1f}"
        parts += [
            element(
                "line", {"x1": LEFT, "x2": WIDTH - RIGHT, "y1": y, "y2": y, "class": "grid"}
            ),
            element(
                "text",
                {"x": LEFT - 8, "y": f"{down(value) + 4:.1f}", "text-anchor": "end",
                 "class": "axis"},
                number(value),
            ),
        ]  # fmt: skip
    return parts


def _scale(a: float, b: float, start: float, end: float) -> Callable[[float], float]:
    span = (b - a) or 1.0
    return lambda value: start + (value - a) / span * (end - start)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
