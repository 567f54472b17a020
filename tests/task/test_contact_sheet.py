"""Contact sheets: nothing is cut off, nothing overlaps."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops
from scipy.sparse import csr_matrix

from peft_vision.data.arrays import Arrays
from peft_vision.data.pictures import Labelled
from peft_vision.objective.predictions import KeptPredictions
from peft_vision.task.contact_sheet import (
    COLUMNS,
    TILE,
    Tile,
    contact_sheet,
    fitted,
    judged_sections,
    open_font,
    wrapped,
)

NAMES = [
    "cat",
    "Staffordshire bullterrier, Staffordshire bull terrier",
    "x" * 100,
    "a b c d e f g " * 9,
    "",
    "caf\udce9",
    "W" * 3000,
]


def tile(name: str, colour: str = "red", file: str = "") -> Tile:
    return Tile(fitted(Image.new("RGB", (30, 30), colour)), name, "97.3 %", file)


def inked(sheet: Image.Image) -> tuple[int, int, int, int]:
    """The box of all that is not paper."""
    return ImageChops.difference(sheet, Image.new("RGB", sheet.size, "white")).getbbox()


@pytest.mark.parametrize("name", NAMES)
def test_a_caption_is_wrapped_within_its_tile_and_keeps_every_letter(name):
    measure = open_font(None).getlength
    lines = wrapped(name, TILE, measure)
    assert all(measure(line) <= TILE for line in lines)
    assert "".join(lines).replace(" ", "") == name.replace(" ", "")


def test_words_that_fit_are_not_broken():
    lines = wrapped(NAMES[1], TILE, open_font(None).getlength)
    assert " ".join(lines) == NAMES[1]
    assert len(lines) == 2


@pytest.mark.parametrize("file", ["", "photos/cat.jpg", f"photos/{'x' * 100}.jpg"])
@pytest.mark.parametrize("name", NAMES)
def test_the_sheet_has_room_for_its_longest_caption(name, file):
    tiles = [tile(name, file=file)]
    sheet = contact_sheet({"most certain": tiles, "least certain": tiles}, font_name=None)
    left, top, right, bottom = inked(sheet)
    margin = 10
    assert left >= margin
    assert top >= margin
    assert right <= sheet.width - margin
    assert bottom <= sheet.height - margin


def test_the_name_of_the_file_is_written_below_all_else():
    bare, named, other = (
        contact_sheet({"most certain": [tile("cat", file=file)]}, font_name=None) for file in ("", "a.jpg", "b.jpg")
    )
    assert named.height > bare.height
    above = (0, 0, bare.width, inked(bare)[3])
    assert ImageChops.difference(named.crop(above), bare.crop(above)).getbbox() is None
    assert inked(named)[3] > inked(bare)[3]
    assert ImageChops.difference(named, other).getbbox()[1] > inked(bare)[3]


def test_a_longer_caption_pushes_the_next_row_down():
    def row_tops(name: str) -> list[int]:
        sheet = contact_sheet({"most certain": [tile(name)] * (COLUMNS + 1)}, font_name=None)
        reds = [y for y in range(sheet.height) if sheet.getpixel((TILE // 2, y)) == (255, 0, 0)]
        return [y for y in reds if y - 1 not in reds]

    short, long = row_tops(NAMES[0]), row_tops(NAMES[1])
    assert len(short) == len(long) == 2
    assert long[1] > short[1]


def test_pictures_of_any_shape_are_shown_whole():
    for size in ((8, 8), (300, 20), (20, 900), (5000, 1), (1, 5000)):
        picture = fitted(Image.new("RGB", size))
        assert max(picture.size) == TILE
        assert min(picture.size) >= 1
    assert fitted(Image.new("RGB", (300, 150))).size == (TILE, TILE // 2)


def test_the_grid_is_no_wider_than_its_columns():
    widths = [contact_sheet({"all": [tile("a")] * n}, font_name=None).width for n in (1, 2, COLUMNS, COLUMNS + 1)]
    assert widths[0] < widths[1] < widths[2] == widths[3]


def test_the_worst_come_first_and_the_best_last_none_twice_with_truth_beside_prediction():
    loss = np.array([0.1, 3.0, 0.5, 2.0, 0.2], np.float32)
    truth, prediction = np.array([0, 1, 0, 1, 0]), np.array([0, 0, 0, 0, 0])
    found = KeptPredictions("classes", ("cat", "dog"), loss, truth, prediction, np.full((5, 2), 0.75, np.float32))
    pictures = Labelled(Arrays(np.zeros((9, 4, 4, 3), np.uint8)), torch.arange(5) + 4, torch.zeros(5))
    worst, best = judged_sections(found, pictures, 4, overlays=None).values()
    assert [(one.name, one.remark, one.file) for one in worst] == [
        ("true: dog", "predicted cat, 75.0 %", "image 5"),
        ("true: dog", "predicted cat, 75.0 %", "image 7"),
    ]
    assert [(one.name, one.remark, one.file) for one in best] == [
        ("true: cat", "right, 75.0 %", "image 4"),
        ("true: cat", "right, 75.0 %", "image 8"),
    ]


def test_a_mask_has_two_tiles_and_pictures_without_labelled_pixels_have_none():
    confusion = csr_matrix(np.array([[4, 0, 0, 0], [0, 4, 0, 0], [0, 0, 0, 0]]))
    found = KeptPredictions("masks", ("a", "b"), np.zeros(3, np.float32), confusion=confusion)
    pictures = Labelled(Arrays(np.zeros((3, 4, 4, 3), np.uint8)), torch.arange(3), torch.zeros(3))
    shown = (Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue"))
    worst, best = judged_sections(found, pictures, 24, overlays=lambda place: shown).values()
    said = [("true", "mean IoU 0.0 %", "image 1"), ("predicted", "0.0 % of pixels right", "")]
    assert [(one.name, one.remark, one.file) for one in worst] == said
    assert [one.file for one in best] == ["image 0", ""]
