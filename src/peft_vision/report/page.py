"""This module writes the report as one HTML file that needs nothing else, neither other files nor a network.

page.html, a jinja2 template with autoescape, says how it looks; here is what it says.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from peft_vision import __version__
from peft_vision.core.table import ON_TEST, Table
from peft_vision.report.collect import LeftOut
from peft_vision.report.finished import Origin, RunRecord
from peft_vision.report.leaderboard import Leaderboard
from peft_vision.report.page_tables import absent_table, left_out_table, runs_table, seeds_table, settings_table
from peft_vision.report.per_class import ClassReport, class_table, pairs_table
from peft_vision.report.pictures import SavedFigure

_HERE = Path(__file__).parent
_ENLARGED = 124  # px per inch of a picture, so that its letters of 8 pt are as large as a table's
_NAMED = 2  # at most this many data sets have their images described at the top
_SECTIONS = {
    "leaderboard": "Leaderboard",
    "published": "Published figures",
    "shifts": "In and out of distribution",
    "figures": "Figures",
    "classes": "Each class",
    "settings": "Settings",
    "gaps": "Missing and left out",
    "runs": "Runs",
}
_WARNING = (
    f"{ON_TEST} Some settings were chosen on test images. Their figures are too good, and cannot be compared with "
    "others."
)


@dataclass(frozen=True)
class MethodClasses:
    """The tables of a method's classes, and the figure of its confusion matrix, `width` px wide, if it has one."""

    method: str
    tables: Sequence[Table]
    figure: SavedFigure | None
    width: int


def page(
    boards: Sequence[Leaderboard],
    tables: Mapping[str, Sequence[Table]],
    classes: ClassReport,
    runs: Sequence[RunRecord],
    left_out: Sequence[LeftOut],
    saved: Sequence[SavedFigure],
    out: Path,
) -> str:
    """Return the report as an HTML document. `tables`: leaderboard, published and shifts, which may be empty.
    `classes`: the results of each class. `out`: the folder that it will lie in."""
    figures = [figure for figure in saved if not figure.picture.method]
    of_classes = _classes(boards, classes, saved)
    empty = {name for name, found in {**tables, "figures": figures, "classes": of_classes}.items() if not found}
    gaps = [found for board in boards if (found := absent_table(board))]
    gaps += [left_out_table(left_out)] if left_out else []
    settings = [settings_table(boards), *([table] if (table := seeds_table(runs)) else [])]
    on_test = any(line.on_test for board in boards for line in board.lines)
    # no name of a run is taken for markup: only what is Markup, or `safe` in the template, stays as it is
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html").render(
        title=_title(boards),
        style=Markup((_HERE / "page.css").read_text()),
        script=Markup((_HERE / "page.js").read_text()),
        version=__version__,
        sections={name: heading for name, heading in _SECTIONS.items() if name not in empty},
        lead=_lead(boards, runs, left_out),
        warning=_WARNING if on_test else "",
        facts=_facts(boards, runs),
        tables={**tables, "settings": settings, "gaps": gaps, "runs": runs_table(runs, out)},
        figures=_figures(figures),
        classes=of_classes,
        sources=_sources(boards),
        common=_common(runs),
    )


def _figures(saved: Sequence[SavedFigure]) -> list[tuple[SavedFigure, int, str]]:
    """Return each figure with its width in px and its caption; only the first of each kind gets the whole caption."""
    first: dict[str, int] = {}
    found = []
    for number, figure in enumerate(saved):
        kind = figure.picture.title
        caption = f"As figure {first[kind]}." if kind in first else figure.picture.caption
        first.setdefault(kind, number + 1)
        found.append((figure, _width(figure), caption))
    return found


def _classes(
    boards: Sequence[Leaderboard], classes: ClassReport, saved: Sequence[SavedFigure]
) -> list[tuple[str, list[MethodClasses]]]:
    """Return, for each data set whose runs kept predictions of classes, its heading and what is shown of each
    method."""
    drawn = {(figure.picture.section, figure.picture.method): figure for figure in saved if figure.picture.method}
    found = []
    for board in boards:
        for problem in board.problems:
            heading, methods = f"{problem.label}, {board.title}", []
            stem, results = classes.of(problem)
            for result in results:
                made = class_table(result, f"{stem}-classes.csv"), pairs_table(result, f"{stem}-confusion.csv")
                tables = [table for table in made if table is not None]
                if tables:
                    figure = drawn.get((heading, result.method))
                    width = 0 if figure is None else _width(figure)
                    methods.append(MethodClasses(result.method, tables, figure, width))
            if methods:
                found.append((heading, methods))
    return found


def _width(figure: SavedFigure) -> int:
    """Return the width of a figure on the page, in px."""
    return round(figure.picture.figure.get_figwidth() * _ENLARGED)


def _sources(boards: Sequence[Leaderboard]) -> list[str]:
    """Return what the images of each tested data set are."""
    tested = [(problem, board) for board in boards for problem in board.problems if problem.comparison]
    return [f"{problem.label}, {board.title}: {problem.comparison.source}" for problem, board in tested]


def _common(runs: Sequence[RunRecord]) -> list[str]:
    """Return the config values that all runs share, each as a line."""
    first, *others = [run.setting for run in runs]
    alike = {
        key: value for key, value in first.items() if all(key in other and other[key] == value for other in others)
    }
    return [f"{key}: {_plain(value)}" for key, value in sorted(alike.items())]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _title(boards: Sequence[Leaderboard]) -> str:
    """Return a title such as "5 methods on digits"."""
    data = sorted(_data(boards))
    return f"{_count(len(_methods(boards)), 'method')} on {data[0] if len(data) == 1 else f'{len(data)} data sets'}"


def _lead(boards: Sequence[Leaderboard], runs: Sequence[RunRecord], left_out: Sequence[LeftOut]) -> str:
    backbones = {board.backbone for board in boards}
    out = f"{_count(len(left_out), 'folder')} left out." if left_out else "nothing left out."
    return f"{_count(len(runs), 'finished run')} from {_count(len(backbones), 'backbone')}; {out}"


def _facts(boards: Sequence[Leaderboard], runs: Sequence[RunRecord]) -> dict[str, str]:
    """Return what was compared, how settings were chosen, and what made the runs, in words."""
    problems = [problem for board in boards for problem in board.problems]
    sources = [problem.comparison.source if problem.comparison else problem.label for problem in problems]
    if len(sources) > _NAMED:
        sources = [", ".join(dict.fromkeys(problem.label for problem in problems))]
    protocols = "; ".join(dict.fromkeys(board.protocol_words for board in boards if board.protocol_words))
    return {
        "Methods": ", ".join(sorted(_methods(boards))),
        "Data": "; ".join(dict.fromkeys(sources)),
        "Backbones": ", ".join(dict.fromkeys(board.backbone for board in boards)),
        **({"Protocols": protocols} if protocols else {}),
        "Seeds": _listed(run.seed for run in runs),
        "Settings": _chosen(boards, runs),
        "Test images": _reads(runs),
        "Made by": _origins(runs),
        "Dates": _days(runs),
    }


def _chosen(boards: Sequence[Leaderboard], runs: Sequence[RunRecord]) -> str:
    counts = [entry.tried for board in boards for line in board.lines for entry in line.entries if entry.tried]
    tuning = sum(run.tunes for run in runs)
    fewest, most = min(counts, default=0), max(counts, default=0)
    span = f"{most}" if fewest == most else f"{fewest} to {most}"
    metrics = ", ".join(dict.fromkeys(board.metric.words for board in boards))
    said = f"chosen by validation {metrics}, of {span} tried for a method on a data set"
    return f"{said}; {_count(tuning, 'run')} only to tune" if tuning else said


def _reads(runs: Sequence[RunRecord]) -> str:
    tested = [run for run in runs if not run.tunes]
    counts = Counter(run.test_reads for run in tested)
    words = {0: "not counted", 1: "read once"}
    parts = [
        f"{words.get(reads, f'read {reads} times')} in {_count(number, 'run')}"
        for reads, number in sorted(counts.items())
    ]
    return "; ".join(parts) or "never read"


def _origins(runs: Sequence[RunRecord]) -> str:
    """Return versions and commits, with the number of runs of each where there are several."""
    made = Counter(_made_by(run.origin) for run in runs)
    if len(made) == 1:
        return next(iter(made))
    return "; ".join(f"{name} ({_count(number, 'run')})" for name, number in made.items())


def _made_by(origin: Origin) -> str:
    commit, _, changes = origin.commit.partition("+")
    parts = ["peft-vision", origin.version, f"at {commit[:10]}" if commit else "", f"with {changes}" if changes else ""]
    return " ".join(filter(None, parts))


def _days(runs: Sequence[RunRecord]) -> str:
    first, last = (find(run.origin.day for run in runs).isoformat() for find in (min, max))
    return f"results written {first}" if first == last else f"results written {first} to {last}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _listed(values: Iterable[int]) -> str:
    found = sorted(set(values))
    whole = found == list(range(found[0], found[-1] + 1)) and len(found) > 3
    return f"{found[0]} to {found[-1]}" if whole else ", ".join(map(str, found))


def _methods(boards: Sequence[Leaderboard]) -> set[str]:
    return {line.method for board in boards for line in board.lines}


def _data(boards: Sequence[Leaderboard]) -> set[str]:
    return {column.label for board in boards for column in board.data}
