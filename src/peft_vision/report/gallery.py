"""This module saves pictures as PNG for a slide, SVG for a paper and SVG inside a page, with reproducible bytes."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

from peft_vision.report.options import Format
from peft_vision.report.pictures import Picture
from peft_vision.runs.run import place

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
class SavedFigure:
    """A saved picture: its files, and an SVG element that shows it on a page."""

    picture: Picture
    files: tuple[Path, ...]
    svg: str


def save_figure(picture: Picture, out: Path, formats: Sequence[Format]) -> SavedFigure:
    """Write the picture to `<name>.<format>` in `out`, for each format, and return it with an SVG element for a
    page."""
    figure = picture.figure
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")  # the layout is now fixed, and need not be computed again for each file
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
