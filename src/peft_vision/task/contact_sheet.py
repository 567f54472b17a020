"""This module draws a contact sheet: pictures in a grid under headings, each with a caption that is wrapped, not cut.
Those whose labels are known are ordered by how wrong their predictions are, and show truth and prediction."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from peft_vision.core.config import ConfigError
from peft_vision.core.output import one_line
from peft_vision.data.pictures import LabelKind, Labelled
from peft_vision.objective.predictions import KeptPredictions
from peft_vision.task.answers import numbers_in_words

TILE = 160  # px, the longer side of every picture
COLUMNS = 6
_GAP = 20  # px between tiles, and around them
_CAPTION, _HEADING = 14, 20  # px, sizes of letters
_PAPER, _INK, _FAINT, _FRAME = "white", "#202020", "#707070", "#d8d8d8"
_log = logging.getLogger("peft_vision")
_ENDS: Mapping[LabelKind, tuple[str, str]] = {
    "classes": ("worst: the largest losses", "best: the smallest losses"),
    "several": ("worst: the largest losses", "best: the smallest losses"),
    "numbers": ("worst: the largest errors", "best: the smallest errors"),
    "masks": ("worst: the lowest mean IoU", "best: the highest mean IoU"),
}


@dataclass(frozen=True)
class Tile:
    """A picture that `fitted` made, with its caption: `name` in ink, `remark` fainter below it, and last the name of
    the picture's `file`, if it has one. All of them are wrapped."""

    picture: Image.Image
    name: str
    remark: str
    file: str = ""


def fitted(picture: Image.Image) -> Image.Image:
    """Return the whole picture, scaled to the size of a tile."""
    scale = TILE / max(picture.size)
    width, height = (max(1, round(scale * side)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def open_font(name: str | None, size: int = _CAPTION) -> ImageFont.FreeTypeFont:
    """Return a font from a file, or by the name of its file from the system; None: Pillow's own, which has ASCII only.
    OSError where there is no such font."""
    return ImageFont.load_default(size) if name is None else ImageFont.truetype(name, size)


def contact_sheet(sections: Mapping[str, Sequence[Tile]], *, font_name: str | None) -> Image.Image:
    """Return an RGB sheet of each section under its heading, at most COLUMNS tiles wide."""
    font, heading_font = open_font(font_name), open_font(font_name, _HEADING)
    rows = {
        heading: [_PictureRow(tiles[start : start + COLUMNS], font) for start in range(0, len(tiles), COLUMNS)]
        for heading, tiles in sections.items()
    }
    columns = min(COLUMNS, max(len(tiles) for tiles in sections.values()))
    heading_height = line_height(heading_font) + _GAP // 2
    height = _GAP + sum(heading_height + sum(row.height for row in under) for under in rows.values())
    sheet = Image.new("RGB", (_GAP + columns * (TILE + _GAP), height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    top = _GAP
    for heading, under in rows.items():
        draw.text((_GAP, top), heading, _INK, heading_font)
        top += heading_height
        for row in under:
            row.paste(sheet, draw, top)
            top += row.height
    return sheet


class _PictureRow:
    """A row of tiles, as high as its longest caption needs."""

    def __init__(self, tiles: Sequence[Tile], font: ImageFont.FreeTypeFont) -> None:
        self.tiles = tiles
        self.font = font
        self.texts = [self._texts(tile) for tile in tiles]
        self.line = line_height(font)
        self.height = TILE + _GAP // 2 + self.line * max(map(len, self.texts)) + _GAP

    def _texts(self, tile: Tile) -> list[tuple[str, str]]:
        """Return the lines below a tile, with the colour of each."""
        texts = (tile.name, tile.remark, tile.file)
        names, remarks, files = (wrapped(text, TILE, self.font.getlength) for text in texts)
        last = [(line, _FAINT) for line in files] if tile.file else []
        return [*((line, _INK) for line in names), *((line, _FAINT) for line in remarks), *last]

    def paste(self, sheet: Image.Image, draw: ImageDraw.ImageDraw, top: int) -> None:
        """Paste the tiles and their captions into the sheet, starting at `top` px."""
        for column, (tile, texts) in enumerate(zip(self.tiles, self.texts, strict=True)):
            left = _GAP + column * (TILE + _GAP)
            width, height = tile.picture.size
            corner = (left + (TILE - width) // 2, top + TILE - height)
            sheet.paste(tile.picture, corner)
            # a frame, because a picture may be white like the paper
            draw.rectangle((corner[0] - 1, corner[1] - 1, corner[0] + width, corner[1] + height), outline=_FRAME)
            for number, (text, colour) in enumerate(texts):
                below = top + TILE + _GAP // 2 + number * self.line
                draw.text((left + TILE // 2, below), text, colour, self.font, anchor="ma")


def line_height(font: ImageFont.FreeTypeFont) -> int:
    """Return the px from one line to the next, so that they do not touch."""
    return sum(font.getmetrics()) + 2


def wrapped(text: str, width: float, measure: Callable[[str], float]) -> list[str]:
    """Return lines of at most `width` by `measure`, broken at spaces, or within a word that is wider than a line."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        if line and measure(f"{line} {word}") <= width:
            line = f"{line} {word}"
            continue
        if line:
            lines.append(line)
        line = word
        while measure(line) > width and len(line) > 1:
            fitting = 1
            while measure(line[: fitting + 1]) <= width:
                fitting += 1
            lines.append(line[:fitting])
            line = line[fitting:]
    return [*lines, line]


def check_font(font_name: str | None, names: Sequence[str]) -> None:
    """Raise ConfigError if the font cannot be opened; warn if Pillow's own font cannot show one of the `names`."""
    try:
        open_font(font_name)
    except OSError as error:
        raise ConfigError(f"task.font: cannot open {font_name!r} ({error}); it should be a font file") from error
    strange = [name for name in names if not name.isascii()]
    if font_name is None and strange:
        shown = f"{strange[0]!r} and others" if strange[1:] else repr(strange[0])
        _log.warning("the sheet's font has ASCII letters only, and %s needs more; set task.font=FILE.ttf", shown)


def both_ends(order: Sequence[int], most: int) -> tuple[Sequence[int], Sequence[int]]:
    """Return the first places of an order and its last ones, the last first, `most` in all and none twice; a single one
    is at the first end."""
    shown = min(most, len(order))
    return order[: (shown + 1) // 2], order[::-1][: shown // 2]


def judged_sections(
    found: KeptPredictions,
    pictures: Labelled,
    most: int,
    overlays: Callable[[int], tuple[Image.Image, Image.Image]],
) -> dict[str, list[Tile]]:
    """Return tiles of the worst and the best predictions, of at most `most` tiles in all: with masks a picture has two,
    under its true mask and the predicted one, which `overlays` makes by the picture's place."""
    masked = found.labels_are == "masks"
    order = np.argsort(-found.faults(), kind="stable").tolist()
    if masked:
        overlap, right = found.overlaps()
        order = [place for place in order if not np.isnan(overlap[place])]
    ends = both_ends(order, max(1, most // 2) if masked else most)
    sections: dict[str, list[Tile]] = {}
    for heading, places in zip(_ENDS[found.labels_are], ends, strict=True):
        tiles = []
        for place in places:
            index = int(pictures.indices[place])
            file = one_line(pictures.pictures.path(index) or f"image {index}")
            if masked:
                true, predicted = map(fitted, overlays(place))
                tiles.append(Tile(true, "true", f"mean IoU {100 * overlap[place]:.1f} %", file))
                tiles.append(Tile(predicted, "predicted", f"{100 * right[place]:.1f} % of pixels right"))
            else:
                tiles.append(Tile(fitted(pictures.pictures.read(index)), *truth_and_prediction(found, place), file))
        sections |= {heading: tiles} if tiles else {}
    return sections


def truth_and_prediction(found: KeptPredictions, place: int) -> tuple[str, str]:
    """Return what is true of an image without a mask, and what was predicted."""
    truth, prediction = found.truth[place], found.prediction[place]
    if found.labels_are == "numbers":
        said = [numbers_in_words(found.classes, values) for values in (truth, prediction)]
    elif found.labels_are == "several":
        named = [[one_line(found.classes[label]) for label in np.flatnonzero(marks)] for marks in (truth, prediction)]
        said = [", ".join(names) or "none" for names in named]
    else:
        share = found.shares[place].max()
        verdict = "right" if truth == prediction else f"predicted {one_line(found.classes[prediction])}"
        return f"true: {one_line(found.classes[truth])}", f"{verdict}, {100 * share:.1f} %"
    return f"true: {said[0]}", f"predicted: {said[1]}"
