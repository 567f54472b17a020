"""This module draws a contact sheet: pictures in a grid under headings, each with a caption that is wrapped, not
cut."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

TILE = 160  # px, the longer side of every picture
COLUMNS = 6
_GAP = 20  # px between tiles, and around them
_CAPTION, _HEADING = 14, 20  # px, sizes of letters
_PAPER, _INK, _FAINT, _FRAME = "white", "#202020", "#707070", "#d8d8d8"


@dataclass(frozen=True)
class Tile:
    """A picture that `fitted` made, with its caption: `name` in ink, `remark` fainter below it, and last the name of
    the picture's `file`, if it has one."""

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
        names, files = (wrapped(text, TILE, self.font.getlength) for text in (tile.name, tile.file))
        last = [(line, _FAINT) for line in files] if tile.file else []
        return [*((line, _INK) for line in names), (tile.remark, _FAINT), *last]

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
