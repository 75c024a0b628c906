"""Writing HTML: everything that comes from a model is text, whatever it looks like."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Html:
    """Markup that is complete and escaped."""

    text: str

    def __str__(self) -> str:
        return self.text


Content = str | Html | Iterable["Content"]
"""What goes into an element: strings are escaped, markup is not."""

VOID = ("input", "circle", "rect", "line", "path", "polyline")


def tag(name: str, content: Content = "", /, **attributes: object) -> Html:
    """An element.

    Args:
        content: strings, markup, or both in any nesting of lists.
        attributes: by name; ``class_`` is ``class``, further underscores are hyphens. True stands
            for an attribute without a value; None and False leave it out.
    """
    return element(name, {_attribute(key): value for key, value in attributes.items()}, content)


def element(name: str, attributes: Mapping[str, object], content: Content = "") -> Html:
    """As `tag`, with attributes under their own names."""
    written = "".join(
        f" {key}" if value is True else f' {key}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in VOID and content == "":
        return Html(f"<{name}{written}/>")
    return Html(f"<{name}{written}>{join(content)}</{name}>")


def join(content: Content) -> Html:
    """Contents one after the other."""
    if isinstance(content, Html):
        return content
    if isinstance(content, str):
        return Html(html.escape(content, quote=False))
    return Html("".join(join(part).text for part in content))


def _attribute(key: str) -> str:
    return key.rstrip("_").replace("_", "-")
