"""This module reads Diabetic Retinopathy: 88,702 retina photographs graded 0 to 4 (Kaggle and EyePACS, 2015).

train/10_left.jpeg  trainLabels.csv: image,level    test/1_left.jpeg  retinopathy_solution.csv: image,level,Usage

They are prepared as the winner of the competition did (Graham, 2015), btgraham-300: scaled so that the eye's radius is
300 pixels; 4 * image - 4 * blurred + 128; grey outside 90 % of the radius; cropped.
"""

import csv
import io
from functools import partial
from io import TextIOWrapper
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from peft_vision.core.config import ConfigError
from peft_vision.core.records import open_regular
from peft_vision.data.benchmark import Release
from peft_vision.data.decode import open_bytes
from peft_vision.data.pictures import Files, Labelled, labelled
from peft_vision.data.reading import home, names_in, quoted, reading, refuse_repeated, require, require_listed, short
from peft_vision.data.vtab.choice import first_thousand, tfds_order
from peft_vision.data.vtab.pictures import Derived, scaled

_TRAIN, _SOLUTION = "trainLabels.csv", "retinopathy_solution.csv"
_text = partial(TextIOWrapper, encoding="utf-8-sig", newline="")
_ENDING = ".jpeg"
_CLASSES = ("none", "mild", "moderate", "severe", "proliferative")
_RADIUS = 300  # pixels
_BLUR = _RADIUS / 30  # pixels, standard deviation
_KEPT = int(0.9 * _RADIUS)
_GREY = 128
_QUALITY = 72  # JPEG quality of the images stored for the benchmark


def read(root: Path) -> Release:
    """Return the release; the test images of the competition's public score are the validation part, those of the
    private score the test part."""
    folder = home(root, "diabetic_retinopathy", "diabetic-retinopathy-detection", "retinopathy")
    require(
        folder,
        ["train", _TRAIN, "test", _SOLUTION],
        what="parts of Diabetic Retinopathy",
        source="Diabetic Retinopathy is at www.kaggle.com/c/diabetic-retinopathy-detection/data, 88 GB to be unpacked; "
        f"{_SOLUTION} in its forum",
    )
    rows = _rows(folder / _TRAIN, ("image", "level"), folder / "train")
    train = _labelled(root, folder / "train", folder / _TRAIN, [(name, level) for name, level in rows], "train")
    solution = _rows(folder / _SOLUTION, ("image", "level", "Usage"), folder / "test")
    val, test = (
        _labelled(
            root,
            folder / "test",
            folder / _SOLUTION,
            [(name, level) for name, level, row_usage in solution if row_usage == usage],
            split,
        )
        for usage, split in (("Public", "validation"), ("Private", "test"))
    )
    return first_thousand(train, val, test, classes=_CLASSES, files=[folder / _TRAIN, folder / _SOLUTION])


def _rows(file: Path, columns: tuple[str, ...], images: Path) -> list[tuple[str, ...]]:
    """Read the rows of a table with a row for each picture in `images`; ConfigError if it is incomplete or
    malformed."""
    expected = f"a table with columns {', '.join(columns)}"
    with reading(file, expected), open_regular(file) as binary, _text(binary) as text:
        rows = [tuple(row[column] for column in columns) for row in csv.DictReader(text)]
    if not rows:
        raise ConfigError(f"data.root: {file} has no row, should be {expected}; fetch it again")
    refuse_repeated((row[0] for row in rows), file)
    if wrong := [row for row in rows if row[1] not in set(map(str, range(len(_CLASSES))))]:
        raise ConfigError(
            f"data.root: {file} gives image {short(str(wrong[0][0]))} level {quoted(wrong[0][1])}, should be 0 to "
            f"{len(_CLASSES) - 1}"
        )
    named = {f"{row[0]}{_ENDING}" for row in rows}
    if unnamed := sorted(name for name in names_in(images) - named if name.endswith(_ENDING)):
        raise ConfigError(
            f"data.root: {file} has no row for {len(unnamed)} of the images in {images}, such as {short(unnamed[0])}; "
            "it may be cut short"
        )
    return rows


def _labelled(root: Path, images: Path, file: Path, rows: list[tuple[str, str]], split: str) -> Labelled:
    names, folder = [f"{name}{_ENDING}" for name, _ in rows], images.relative_to(root).as_posix()
    require_listed(images, names, by=file.name, remedy="unpack all parts of the archive")
    pictures = Derived(Files(root, [f"{folder}/{name}" for name in names]), btgraham_300)
    return tfds_order(labelled(pictures, [int(level) for _, level in rows]), split, [name for name, _ in rows])


def btgraham_300(image: Image.Image) -> Image.Image:
    """Return the prepared image, up to 540 x 540, with the losses of the JPEG that the benchmark reads."""
    buffer = io.BytesIO()
    Image.fromarray(prepared(image)).save(buffer, "JPEG", quality=_QUALITY)
    with open_bytes(buffer.getvalue()) as stored:
        return stored.convert("RGB")


def prepared(image: Image.Image) -> np.ndarray:
    """Return the prepared image, uint8 (H, W, 3), before JPEG compression."""
    pixels = np.asarray(scaled(image, _RADIUS / _radius(image)))
    blurred = gaussian_filter(pixels.astype(np.float32), (_BLUR, _BLUR, 0), mode="mirror", truncate=3.0)
    sharp = np.clip(4.0 * pixels - 4.0 * np.rint(blurred) + _GREY, 0, 255).astype(np.uint8)
    height, width = sharp.shape[:2]
    middle, centre = height // 2, width // 2
    rows, columns = np.ogrid[:height, :width]
    inside = (rows - middle) ** 2 + (columns - centre) ** 2 <= _KEPT**2
    masked = np.where(inside[..., None], sharp, np.uint8(_GREY))
    return masked[max(middle - _KEPT, 0) : middle + _KEPT, max(centre - _KEPT, 0) : centre + _KEPT]


def _radius(image: Image.Image) -> float:
    """Return half the number of pixels in the middle row that are not dark; half the height if no pixel is bright."""
    row = np.asarray(image)[image.height // 2].sum(axis=1, dtype=np.int64)
    radius = (row > row.mean() / 10).sum() / 2
    return radius if radius >= 1 else image.height / 2
