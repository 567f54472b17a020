"""Miniature copies of out-of-distribution sets, and of ImageNet, in their real layouts on disk.

The colour of a picture tells its class: three decimal digits, one a channel, far enough apart for JPEG.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from peft_vision.data.pictures import Labelled

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
STL10 = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
_STEP = 25


def colour(place: int) -> tuple[int, int, int]:
    return place // 100 * _STEP, place // 10 % 10 * _STEP, place % 10 * _STEP


def painted(places: Sequence[int], size: int) -> np.ndarray:
    """(n, size, size, 3)."""
    colours = np.array([colour(place) for place in places], dtype=np.uint8)
    return np.broadcast_to(colours[:, None, None], (len(places), size, size, 3)).copy()


def shown(part: Labelled) -> list[int]:
    """The class in each of its pictures, in order."""
    return [_place(part.pictures.read(index)) for index in part.indices.tolist()]


def _place(picture: Image.Image) -> int:
    centre = picture.getpixel((picture.width // 2, picture.height // 2))
    return int("".join(str(round(channel / _STEP)) for channel in centre))


def cifar10_1(folder: Path, labels: Sequence[int], *, version: str = "v6", dtype: type = np.int32) -> Path:
    folder.mkdir(parents=True)
    np.save(folder / f"cifar10.1_{version}_data.npy", painted(labels, 32))
    np.save(folder / f"cifar10.1_{version}_labels.npy", np.array(labels, dtype=dtype))
    return folder


def cifar_c(folder: Path, corruptions: Iterable[str], labels: Sequence[int]) -> Path:
    """`labels` at each of five severities; the first pixel of a picture is its severity."""
    folder.mkdir(parents=True)
    images = painted([*labels] * 5, 32)
    images[:, 0, 0] = np.repeat([1, 2, 3, 4, 5], len(labels))[:, None]
    for corruption in corruptions:
        np.save(folder / f"{corruption}.npy", images)
    np.save(folder / "labels.npy", np.array([*labels] * 5, dtype=np.uint8))
    return folder


def stl10(folder: Path, labels: Sequence[int]) -> Path:
    """`labels` from 0. The pixel of row 3 and column 90 is white."""
    folder.mkdir(parents=True)
    images = painted(labels, 96)
    images[:, 3, 90] = 255
    (folder / "test_X.bin").write_bytes(images.transpose(0, 3, 2, 1).tobytes())  # channel, column, row
    (folder / "test_y.bin").write_bytes(bytes(label + 1 for label in labels))
    (folder / "class_names.txt").write_text("".join(f"{name}\n" for name in STL10))
    return folder


def class_folders(folder: Path, places: Mapping[str, int], names: Iterable[str]) -> Path:
    """A folder for each of `places`, with pictures of these `names`, such as 1.JPEG."""
    names = list(names)
    for name, place in places.items():
        (folder / name).mkdir(parents=True)
        for file in names:
            Image.new("RGB", (6, 5), colour(place)).save(folder / name / file, quality=100)
    return folder


def imagenet(folder: Path, places: Mapping[str, int]) -> Path:
    """Two training and one validation picture of each class."""
    class_folders(folder / "train", places, ("a.JPEG", "b.JPEG"))
    class_folders(folder / "val", places, ("ILSVRC2012_val_1.JPEG",))
    return folder
