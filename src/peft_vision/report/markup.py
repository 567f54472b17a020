"""This module builds HTML that is safe to show: text is escaped, and each table scrolls by itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any


class Markup(str):
    """A string that is HTML already."""


@dataclass(frozen=True)
class PageCell:
    """A cell of a table. `value`: what its column is ordered by; None: it stays at the bottom. `classes`: its CSS
    classes."""

    shown: str
    value: float | str | None
    classes: str


@dataclass(frozen=True)
class Heading:
    """A column's heading. `words`: whether the column holds words, not figures."""

    text: str
    words: bool
    classes: str


def element(tag: str, *content: str, **attributes: Any) -> Markup:
    """Return an element. `class_` sets the attribute class; attributes that are None, False or empty are left out, and
    one that is True gets no value."""
    named = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
    said = "".join(
        f" {name}" if value is True else f' {name}="{escape(str(value))}"'
        for name, value in named.items()
        if value is not None and value is not False and value != ""
    )
    return Markup(f"<{tag}{said}>{''.join(map(safe, content))}</{tag}>")


def safe(text: str) -> Markup:
    return text if isinstance(text, Markup) else Markup(escape(text))


def joined(parts: Sequence[str], between: str = "") -> Markup:
    return Markup(between.join(map(safe, parts)))


def table(caption: str, headings: Sequence[Heading], rows: Sequence[Sequence[PageCell]], *, classes: str) -> Markup:
    """Return a table that can be ordered by each column. The first cell of a row is its heading."""
    top = [
        element(
            "th",
            element("button", heading.text, type="button"),
            scope="col",
            class_=_classes(heading.words, heading.classes),
        )
        for heading in headings
    ]
    body = [_row(headings, cells) for cells in rows]
    whole = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *top)),
        element("tbody", *body),
        class_=f"sortable {classes}".strip(),
    )
    return element("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _row(headings: Sequence[Heading], cells: Sequence[PageCell]) -> Markup:
    found = []
    for number, (heading, cell) in enumerate(zip(headings, cells, strict=True)):
        attributes = {
            "class_": _classes(heading.words, f"{heading.classes} {cell.classes}"),
            "data_value": None if cell.value is None else str(cell.value),
        }
        tag = "td" if number else "th"
        found.append(element(tag, cell.shown, scope=None if number else "row", **attributes))
    return element("tr", *found)


def _classes(words: bool, others: str) -> str:
    return " ".join(["word", *others.split()] if words else others.split())
