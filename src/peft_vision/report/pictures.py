"""This module draws all pictures of a report in reading order, each with a caption, and saves them as PNG for a slide,
SVG for a paper and SVG inside a page, with reproducible bytes."""

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

from peft_vision.objective.base import ACCURACY, Metric
from peft_vision.report.confusion import confusion_figure, truth_figures
from peft_vision.report.curves import alpha_curves, learning_curves
from peft_vision.report.figures import Look, looks
from peft_vision.report.leaderboard import Leaderboard
from peft_vision.report.options import Format
from peft_vision.report.per_class import ClassReport
from peft_vision.report.response import response_plot, responses
from peft_vision.report.scatters import id_ood_scatter, pareto
from peft_vision.report.shift_bars import shift_bars
from peft_vision.runs.run import place

SHIFT_PICTURES: Mapping[str, Callable[..., Figure | None]] = {
    "scatter": id_ood_scatter,
    "alpha": alpha_curves,
    "shifts": shift_bars,
}
_CAPTIONS = {
    "pareto": (
        "Accuracy against cost",
        "Mean test accuracy of each method at its chosen setting against the trained parameters (method and head), the "
        "peak memory and the training time; bars show one standard deviation over seeds. No method is both cheaper and "
        "more accurate than one on the dashed front.",
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
        "highest; (n) marks fewer seeds than others; hatched cells were not tried, or failed.",
    ),
    "scatter": (
        "In distribution against out of distribution",
        "Every run; those of chosen settings are strong. The line is fitted through the reference runs; points above "
        "it are more robust than their accuracy predicts.",
    ),
    "alpha": (
        "Along the interpolation of weights",
        "Accuracy in and out of distribution from nothing tuned (alpha = 0) to the trained model (alpha = 1). A star "
        "marks the alpha that validation chose.",
    ),
    "shifts": (
        "Accuracy under each shift",
        "Chosen settings; bars show one standard deviation over seeds.",
    ),
    "confusion": (
        "Confusion matrix",
        "The share of each true class, in %, that is taken for each class, on test images: blue where it is right, "
        "orange where it is wrong, of pixels where masks are predicted; a mean over the seeds.",
    ),
    "truth": (
        "Predicted against true numbers",
        "Every test image, or 2,000 that are evenly spread, as the first seed of the chosen setting predicts it.",
    ),
}
_DPI = 150
# colours of figures, and the CSS colours of the page that replace them so that they follow its theme
_THEMED = {
    "#000000": "currentColor",
    "#ffffff": "var(--paper)",
    "#404040": "var(--soft)",
    "#e6e6e6": "var(--rule)",
    "#ececec": "var(--rule)",
    "#0072b2": "var(--blue)",
    "#882255": "var(--wine)",
}
_STABLE = {"Date": None, "Creator": None, "Format": None, "Type": None}  # no metadata, which would change between runs


@dataclass(frozen=True)
class Picture:
    """A picture of the report. `name`: of its files. `section`: the data set, or mean, that it shows. `words`: its text
    alternative. `method`: the one whose classes it shows, which the page has beside their table; else empty."""

    name: str
    section: str
    title: str
    caption: str
    words: str
    figure: Figure
    method: str = ""


@dataclass(frozen=True)
class SavedFigure:
    """A saved picture: its files, and an SVG element that shows it on a page."""

    picture: Picture
    files: tuple[Path, ...]
    svg: str


def pictures(boards: Sequence[Leaderboard], classes: ClassReport) -> Iterator[Picture]:
    """Yield the pictures of each leaderboard: those of the mean, then those of each data set. `classes`: its results of
    each class."""
    for board in boards:
        look_of = _looks(board)
        last = len(board.columns) - 1
        if len(board.problems) > 1:
            stem = _plain(f"mean-{_marked(board)}")
            section = f"{board.columns[last].label}, {board.title}"
            yield from _named(stem, section, board.metric, {"pareto": pareto(board, last, look_of)})
        for number, problem in enumerate(board.problems):
            title = f"{problem.label}, {board.title}"
            drawn = {
                "pareto": pareto(board, number, look_of),
                "curves": learning_curves(problem.chosen, look_of, title),
                "response": response_plot(responses(problem), title),
            }
            if problem.comparison and problem.comparison.sets and board.metric == ACCURACY:
                drawn |= {name: draws(problem.comparison, look_of) for name, draws in SHIFT_PICTURES.items()}
            stem, found = classes.of(problem)
            yield from _named(stem, title, board.metric, drawn)
            for target, figure in truth_figures(found, look_of, title):
                yield _described("truth", f"{stem}-truth-{_plain(target)}", title, figure)
            for result in found:
                if result.matrix is not None:
                    figure = confusion_figure(result, f"{result.method}: {title}")
                    name = f"{stem}-confusion-{_plain(result.method)}"
                    yield _described("confusion", name, title, figure, method=result.method)


def _described(kind: str, name: str, section: str, figure: Figure, *, method: str = "") -> Picture:
    title, caption = _CAPTIONS[kind]
    words = ": ".join(filter(None, [title, method, section]))
    return Picture(name, section, title, caption, words, figure, method)


def _named(stem: str, section: str, metric: Metric, drawn: Mapping[str, Figure | None]) -> Iterator[Picture]:
    for name, figure in drawn.items():
        if figure is not None:
            title, caption = (_of_metric(text, metric) for text in _CAPTIONS[name])
            yield Picture(f"{stem}-{name}", section, title, caption, f"{title}: {section}", figure)


def _of_metric(text: str, metric: Metric) -> str:
    """Return a caption that speaks of accuracy as one that speaks of this metric."""
    if metric == ACCURACY:
        return text
    named = text.replace("more accurate", "better").replace("Accuracy", metric.words)
    named = named.replace("accuracy", metric.words).replace("" if metric.is_fraction else " in %", "")
    return f"{named[0].upper()}{named[1:]}"


def _looks(board: Leaderboard) -> dict[str, Look]:
    """Return the looks of all that a leaderboard's pictures show: rows of comparisons, probes included, and methods."""
    rows = [row for problem in board.problems if problem.comparison for row in problem.comparison.rows]
    known = [row.label for row in rows if not row.is_interpolated]
    return looks(dict.fromkeys([*known, *(line.method for line in board.lines)]))


def _marked(board: Leaderboard) -> str:
    """Return the backbone and, where its runs have several protocols, the name of this one, and that of another metric
    than accuracy."""
    named = f"{board.backbone}-{board.protocol}" if board.protocol_words else board.backbone
    return named if board.metric == ACCURACY else f"{named}-{board.metric.name}"


def file_stems(boards: Sequence[Leaderboard]) -> dict[int, str]:
    """Return, by the id of each data set's TaskResults, the beginning of its file names; no two are equal."""
    found = [(problem, _marked(board)) for board in boards for problem in board.problems]
    stems = [_plain(f"{problem.data}-{mark}") for problem, mark in found]
    return {
        id(problem): f"{stem}-{number + 1}" if stems.count(stem) > 1 else stem
        for number, ((problem, _), stem) in enumerate(zip(found, stems, strict=True))
    }


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name, flags=re.A)


def save_figure(picture: Picture, out: Path, formats: Sequence[Format]) -> SavedFigure:
    """Write the picture to `<name>.<format>` in `out`, for each format, and return it with an SVG element for a
    page."""
    figure = picture.figure
    svg = _svg(figure, picture.name)
    files = {form: out / f"{picture.name}.{form}" for form in formats}
    if "png" in files:
        save_png(figure, files["png"])
    if "svg" in files:
        place(files["svg"], lambda path: path.write_text(svg, encoding="utf-8"), key="out")
    return SavedFigure(picture, tuple(files.values()), inline_svg(svg, picture.name))


def save_png(figure: Figure, path: Path) -> None:
    """Save the figure as PNG without savefig, which draws twice."""
    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    place(path, lambda unfinished: image.save(unfinished, format="PNG", dpi=(_DPI, _DPI)), key="out")


def inline_svg(svg: str, name: str) -> str:
    """Return an SVG for a page of several: ids begin with `name`, colours are the page's, namespace URLs are
    removed."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", svg, count=3)
    svg = svg.replace("xlink:href=", "href=")
    prefix = re.sub(r"\W", "_", name, flags=re.A)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(\bhref="#|url\(#)', rf"\g<1>{prefix}-", svg)
    return re.sub("|".join(_THEMED), lambda found: _THEMED[found[0]], svg).strip()


def _svg(figure: Figure, name: str) -> str:
    """Return the figure as SVG, in which text stays text."""
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        FigureCanvasSVG(figure).print_svg(file, metadata=_STABLE)
    return file.getvalue()
