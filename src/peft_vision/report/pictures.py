"""This module draws all pictures of a report in reading order, each with a caption."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from peft_vision.report.alpha_curves import alpha_curves
from peft_vision.report.id_ood_scatter import id_ood_scatter
from peft_vision.report.leaderboard import Leaderboard
from peft_vision.report.learning_curves import learning_curves
from peft_vision.report.pareto import pareto
from peft_vision.report.picture import Look, looks
from peft_vision.report.problems import TaskResults
from peft_vision.report.response import responses
from peft_vision.report.response_plot import response_plot
from peft_vision.report.shift_bars import shift_bars

SHIFT_PICTURES: Mapping[str, Callable[..., Figure | None]] = {
    "scatter": id_ood_scatter,
    "alpha": alpha_curves,
    "shifts": shift_bars,
}
_CAPTIONS = {
    "pareto": (
        "Accuracy against cost",
        "Mean test accuracy of each method at its chosen setting against what trained (method and head), the most "
        "memory held and the time spent in training; bars show one standard deviation over seeds. No method is both "
        "cheaper and more accurate than one on the dashed front.",
    ),
    "curves": (
        "Learning curves",
        "Validation accuracy and training loss after each epoch, mean over the seeds of the chosen setting; the band "
        "is one standard deviation. Methods whose head is solved rather than stepped have no epochs.",
    ),
    "response": (
        "Response to learning rate and weight decay, or to C",
        "Mean validation accuracy in % over seeds of every setting tried, those that a solver tried within a run too; "
        "where settings also differ in something else, the best of them. Colour runs from each panel's lowest to its "
        "highest; (n) marks fewer seeds than others; hatched is what was not tried, or failed.",
    ),
    "scatter": (
        "In distribution against out of distribution",
        "Every run, and strong those of chosen settings. The line is fitted through the reference runs; what lies "
        "above it is more robust than its accuracy foretells.",
    ),
    "alpha": (
        "Along the interpolation of weights",
        "Accuracy in and out of distribution from nothing tuned (alpha = 0) to the trained model (alpha = 1). A star "
        "is where validation chose alpha.",
    ),
    "shifts": (
        "Accuracy under each shift",
        "Chosen settings; bars show one standard deviation over seeds.",
    ),
}


@dataclass(frozen=True)
class Picture:
    """A picture of the report. `name`: of its files. `section`: the data set, or mean, that it shows. `words`: its text
    alternative."""

    name: str
    section: str
    title: str
    caption: str
    words: str
    figure: Figure


def pictures(boards: Sequence[Leaderboard]) -> Iterator[Picture]:
    """Yield the pictures of each leaderboard: those of the mean, then those of each data set."""
    found = [(problem, _marked(board)) for board in boards for problem in board.problems]
    stems = dict(zip((id(problem) for problem, _ in found), _stems(found), strict=True))
    for board in boards:
        look_of = _looks(board)
        last = len(board.columns) - 1
        if len(board.problems) > 1:
            stem = _plain(f"mean-{_marked(board)}")
            section = f"{board.columns[last].label}, {board.title}"
            yield from _named(stem, section, {"pareto": pareto(board, last, look_of)})
        for number, problem in enumerate(board.problems):
            title = f"{problem.label}, {board.title}"
            drawn = {
                "pareto": pareto(board, number, look_of),
                "curves": learning_curves(problem.chosen, look_of, title),
                "response": response_plot(responses(problem), title),
            }
            if problem.comparison and problem.comparison.sets:
                drawn |= {name: draws(problem.comparison, look_of) for name, draws in SHIFT_PICTURES.items()}
            yield from _named(stems[id(problem)], title, drawn)


def _named(stem: str, section: str, drawn: Mapping[str, Figure | None]) -> Iterator[Picture]:
    for name, figure in drawn.items():
        if figure is not None:
            title, caption = _CAPTIONS[name]
            yield Picture(f"{stem}-{name}", section, title, caption, f"{title}: {section}", figure)


def _looks(board: Leaderboard) -> dict[str, Look]:
    """Return the looks of all that a leaderboard's pictures show: rows of comparisons, probes included, and methods."""
    rows = [row for problem in board.problems if problem.comparison for row in problem.comparison.rows]
    known = [row.label for row in rows if not row.is_interpolated]
    return looks(dict.fromkeys([*known, *(line.method for line in board.lines)]))


def _marked(board: Leaderboard) -> str:
    """Return the backbone and, where its runs have several protocols, the name of this one."""
    return f"{board.backbone}-{board.protocol}" if board.told else board.backbone


def _stems(found: Sequence[tuple[TaskResults, str]]) -> list[str]:
    """Return for each data set the beginning of its pictures' file names; no two are equal."""
    stems = [_plain(f"{problem.data}-{mark}") for problem, mark in found]
    return [f"{stem}-{number + 1}" if stems.count(stem) > 1 else stem for number, stem in enumerate(stems)]


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name, flags=re.A)
