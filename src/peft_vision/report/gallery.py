"""Pictures as files: PNG for a slide, SVG for a paper, and SVG inside a page, the same bytes for the same figures."""

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
from peft_vision.run import place

_DPI = 150
# colours that follow the page's: its ink, its paper, and what is fainter
_THEMED = {
    "#000000": "currentColor",
    "#ffffff": "var(--paper)",
    "#404040": "var(--soft)",
    "#e6e6e6": "var(--rule)",
    "#ececec": "var(--rule)",
    "#0072b2": "var(--blue)",
    "#882255": "var(--wine)",
}
_STABLE = {"Date": None, "Creator": None, "Format": None, "Type": None}  # no metadata: nothing that changes


@dataclass(frozen=True)
class Hung:
    """A picture, its files, and an element that shows it on a page."""

    picture: Picture
    files: tuple[Path, ...]
    svg: str


def hang(picture: Picture, out: Path, formats: Sequence[Format]) -> Hung:
    """Writes its files into `out`, `<name>.<format>`."""
    figure = picture.figure
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")  # all has its place now, and need not find it again for each file
    svg = _svg(figure, picture.name)
    files = {form: out / f"{picture.name}.{form}" for form in formats}
    if "png" in files:
        save_png(figure, files["png"])
    if "svg" in files:
        place(files["svg"], lambda path: path.write_text(svg, encoding="utf-8"), key="out")
    return Hung(picture, tuple(files.values()), inline_svg(svg, picture.name))


def save_png(figure: Figure, path: Path) -> None:
    """Without savefig, which draws twice."""
    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    place(path, lambda unfinished: image.save(unfinished, format="PNG", dpi=(_DPI, _DPI)), key="out")


def inline_svg(svg: str, name: str) -> str:
    """For a page of several: ids begin with `name`, colours are the page's, and no address is left."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", svg, count=3)
    svg = svg.replace("xlink:href=", "href=")
    prefix = re.sub(r"\W", "_", name, flags=re.A)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(\bhref="#|url\(#)', rf"\g<1>{prefix}-", svg)
    return re.sub("|".join(_THEMED), lambda found: _THEMED[found[0]], svg).strip()


def _svg(figure: Figure, name: str) -> str:
    """Letters stay letters."""
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        FigureCanvasSVG(figure).print_svg(file, metadata=_STABLE)
    return file.getvalue()
