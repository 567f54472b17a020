"""Miniature copies of the FGVC data sets in their real layouts on disk: three classes, of each four pictures to train
and two to test on, and two to validate on where the data set has such.

Each writer takes the root and a picture maker, and returns the copy's folder.
"""

import json
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

Picture = Callable[..., Image.Image]
TRAIN, VAL, TEST = 4, 2, 2  # of each class
BREEDS = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel", "n02116738-African_hunting_dog")
MODELS = ("AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012", "smart fortwo Convertible 2012")


def _write(folder: Path, names: Iterable[str], picture: Picture) -> None:
    for key, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(key, 20, 12).save(folder / name)


def _lines(file: Path, lines: Iterable[str]) -> None:
    file.write_text("\n".join(lines) + "\n")


def cub200(root: Path, picture: Picture) -> Path:
    folder = root / "CUB_200_2011"
    classes = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")
    # as published, the images of a class follow one another, training and test images mixed
    images = [
        (f"{name}/{name[4:]}_{i:04d}.jpg", label, i % 3 > 0) for label, name in enumerate(classes, 1) for i in range(6)
    ]
    _write(folder / "images", [path for path, _, _ in images], picture)
    _lines(folder / "images.txt", [f"{number} {path}" for number, (path, _, _) in enumerate(images, 1)])
    _lines(folder / "image_class_labels.txt", [f"{number} {label}" for number, (_, label, _) in enumerate(images, 1)])
    _lines(
        folder / "train_test_split.txt", [f"{number} {int(train)}" for number, (_, _, train) in enumerate(images, 1)]
    )
    _lines(folder / "classes.txt", [f"{label} {name}" for label, name in enumerate(classes, 1)])
    return folder


def nabirds(root: Path, picture: Picture) -> Path:
    """Of six categories, three have images; two of these are called alike."""
    folder = root / "nabirds"
    named = {0: "Birds", 1: "Ducks, Geese, and Swans", 295: "Wood Duck (Male)", 817: "House Wren", 1010: "House Wren"}
    images = [
        (
            f"0000{label:04d}-21dc-4d0c-bfe1-{i:012d}",
            f"{label:04d}/0000{label:04d}21dc4d0cbfe1{i:012d}.jpg",
            label,
            i < TRAIN,
        )
        for i in range(TRAIN + TEST)
        for label in (1010, 295, 817)
    ]
    _write(folder / "images", [path for _, path, _, _ in images], picture)
    _lines(folder / "images.txt", [f"{image} {path}" for image, path, _, _ in images])
    _lines(folder / "image_class_labels.txt", [f"{image} {label}" for image, _, label, _ in images])
    _lines(folder / "train_test_split.txt", [f"{image} {int(train)}" for image, _, _, train in images])
    _lines(folder / "classes.txt", [f"{label} {name}" for label, name in named.items()])
    return folder


def flowers102(root: Path, picture: Picture) -> Path:
    folder = root / "flowers-102"
    labels = np.array([[1, 2, 102] * (TRAIN + VAL + TEST)], dtype=np.uint8)
    numbers = np.arange(1, labels.size + 1, dtype=np.uint16)[None, :]
    _write(folder, [f"jpg/image_{number:05d}.jpg" for number in numbers[0]], picture)
    savemat(folder / "imagelabels.mat", {"labels": labels})
    # as published, the test images come first
    test, val, train = np.split(numbers, [3 * TEST, 3 * (TEST + VAL)], axis=1)
    savemat(folder / "setid.mat", {"trnid": train, "valid": val, "tstid": test})
    return folder


def _cells(texts: Iterable[str]) -> np.ndarray:
    """A column of strings, (n, 1) cells."""
    texts = list(texts)
    cells = np.empty((len(texts), 1), dtype=object)
    cells[:, 0] = texts
    return cells


def dogs(root: Path, picture: Picture) -> Path:
    folder = root / "stanford_dogs"
    for split, places in (("train", range(TRAIN)), ("test", range(TRAIN, TRAIN + TEST)), ("file", range(TRAIN + TEST))):
        paths = [f"{breed}/{breed[:9]}_{100 + i}.jpg" for breed in BREEDS for i in places]
        labels = np.repeat(np.arange(1, 4, dtype=np.uint8), len(places))[:, None]
        _write(folder / "Images", paths, picture)
        annotations = _cells(path.removesuffix(".jpg") for path in paths)
        savemat(
            folder / f"{split}_list.mat", {"file_list": _cells(paths), "annotation_list": annotations, "labels": labels}
        )
    return folder


def _annotations(file: Path, labels: Iterable[int], *, labelled: bool = True) -> None:
    """A row (1, n) of structs, each field a matrix (1, 1) or a string."""
    fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", *(["class"] if labelled else []), "fname"]
    rows = [
        (*([np.uint16(1)] * 4), *([np.uint8(label)] if labelled else []), f"{number:05d}.jpg")
        for number, label in enumerate(labels, 1)
    ]
    table = np.empty((1, len(rows)), dtype=[(field, object) for field in fields])
    table[0, :] = rows
    savemat(file, {"annotations": table})


def cars(root: Path, picture: Picture) -> Path:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    train, test = [3, 1, 2] * TRAIN, [2, 3, 1] * TEST
    for split, labels in (("train", train), ("test", test)):
        _write(folder / f"cars_{split}", [f"{number:05d}.jpg" for number in range(1, len(labels) + 1)], picture)
    _annotations(folder / "devkit" / "cars_train_annos.mat", train)
    _annotations(folder / "devkit" / "cars_test_annos.mat", test, labelled=False)
    _annotations(folder / "cars_test_annos_withlabels.mat", test)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": _cells(MODELS).T})
    return folder


def car_folders(root: Path, picture: Picture) -> Path:
    """As mirrors have them: a slash cannot be in the name of a folder."""
    folder, key = root / "stanford_cars", count()
    for split, number in (("train", TRAIN), ("test", TEST)):
        for name in MODELS:
            _write(folder / split / name.replace("/", "-"), [f"{next(key):05d}.jpg" for _ in range(number)], picture)
    return folder


def json_splits(folder: Path, **splits: dict[str, object]) -> None:
    """train.json and so on."""
    for split, labels in splits.items():
        (folder / f"{split}.json").write_text(json.dumps(labels))


WRITERS = {writer.__name__: writer for writer in (cub200, nabirds, flowers102, dogs, cars)}
