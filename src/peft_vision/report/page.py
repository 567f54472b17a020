"""This module writes the report as one HTML file that needs nothing else, neither other files nor a network."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft_vision import __version__
from peft_vision.report.beside import PublishedComparison
from peft_vision.report.beside_text import beside_page
from peft_vision.report.board_table import ON_TEST
from peft_vision.report.board_text import notes
from peft_vision.report.collect import LeftOut
from peft_vision.report.finished import RunRecord
from peft_vision.report.gallery import SavedFigure
from peft_vision.report.leaderboard import Leaderboard
from peft_vision.report.markup import Markup, element, joined, safe
from peft_vision.report.page_summary import summary, title
from peft_vision.report.page_tables import absent_table, board_table, left_out_table, runs_table, settings_table

_HERE = Path(__file__).parent
_ENLARGED = 124  # px per inch of a picture, so that its letters of 8 pt are as large as a table's
_SECTIONS = {
    "leaderboard": "Leaderboard",
    "published": "Beside published figures",
    "figures": "Figures",
    "settings": "Settings",
    "gaps": "Missing and left out",
    "runs": "Runs",
}


def page(
    boards: Sequence[Leaderboard],
    against: Sequence[PublishedComparison],
    runs: Sequence[RunRecord],
    left_out: Sequence[LeftOut],
    hung: Sequence[SavedFigure],
    out: Path,
) -> str:
    """Return the report as an HTML document. `out`: the folder that it will lie in."""
    sections = {
        "leaderboard": joined([_board(board) for board in boards]),
        "published": beside_page(against),
        "figures": _figures(hung),
        "settings": joined([settings_table(boards), *_sources(boards), *_common(runs)]),
        "gaps": _gaps(boards, left_out),
        "runs": element("details", element("summary", f"All {len(runs):,} finished runs"), runs_table(runs, out)),
    }
    sections = {name: content for name, content in sections.items() if content}
    links = [element("a", _SECTIONS[name], href=f"#{name}") for name in sections]
    body = element(
        "body",
        element("header", element("h1", title(boards)), *summary(boards, runs, left_out)),
        element("nav", *links, aria_label="Sections"),
        element("main", *(_section(name, content) for name, content in sections.items())),
        element("footer", f"Made by peft-vision {__version__}, task=report."),
        Markup(f"<script>{(_HERE / 'page.js').read_text()}</script>"),
    )
    head = (
        '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{safe(title(boards))}</title>\n<style>{(_HERE / 'page.css').read_text()}</style>"
    )
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n{body}\n</html>\n'


def _section(name: str, content: Markup) -> Markup:
    heading = element("h2", _SECTIONS[name], id=f"{name}-heading")
    return element("section", heading, content, id=name, aria_labelledby=f"{name}-heading")


def _board(board: Leaderboard) -> Markup:
    said = notes(board, ("bold:", "≈", ON_TEST))
    return joined([board_table(board), element("ul", *(element("li", note) for note in said), class_="notes")])


def _figures(hung: Sequence[SavedFigure]) -> Markup:
    """Return the pictures by section; only the first of each kind gets its whole caption."""
    parts: list[Markup] = []
    first: dict[str, int] = {}
    section = None
    for number, saved in enumerate(hung):
        if saved.picture.section != section:
            section = saved.picture.section
            parts.append(element("h3", section))
        width = saved.picture.figure.get_figwidth() * _ENLARGED
        labelled = element("svg", role="img", aria_label=saved.picture.words, style=f"--width: {width:.0f}px")
        named = Markup(saved.svg.replace("<svg", labelled.removesuffix("></svg>"), 1))
        box = element("div", named, class_="scroll", tabindex="0", role="region", aria_label=saved.picture.words)
        kind = saved.picture.title
        words = f"As figure {first[kind]}." if kind in first else saved.picture.caption
        first.setdefault(kind, number + 1)
        caption = element("figcaption", element("b", f"Figure {number + 1}. {kind}."), f" {words}")
        parts.append(element("figure", box, caption))
    return joined(parts)


def _gaps(boards: Sequence[Leaderboard], left_out: Sequence[LeftOut]) -> Markup:
    absent = [found for board in boards if (found := absent_table(board))]
    listed = [left_out_table(left_out)] if left_out else []
    return joined([*absent, *listed]) or element(
        "p", "Every method has a figure on every data set, and every folder was read."
    )


def _sources(boards: Sequence[Leaderboard]) -> list[Markup]:
    """Return a fold-out list of the images of each data set; empty where none was tested."""
    tested = [(problem, board) for board in boards for problem in board.problems if problem.comparison]
    items = [element("li", f"{problem.label}, {board.title}: {problem.comparison.source}") for problem, board in tested]
    return (
        [element("details", element("summary", "The images of each data set"), element("ul", *items))] if items else []
    )


def _common(runs: Sequence[RunRecord]) -> list[Markup]:
    """Return the config values that all runs share, as a fold-out list; empty where there are none."""
    first, *others = [run.setting for run in runs]
    alike = {
        key: value for key, value in first.items() if all(key in other and other[key] == value for other in others)
    }
    lines = "\n".join(f"{key}: {_plain(value)}" for key, value in sorted(alike.items()))
    summary = element("summary", f"The {len(alike)} values that all runs share")
    return [element("details", summary, element("pre", lines, tabindex="0"))] if alike else []


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
