"""Miniature copies of torchvision's data sets in their real layouts on disk, 4 images a class and split.

Each writer takes the root and a picture maker, and returns the number of classes.
"""

import json
import pickle
from collections.abc import Callable
from itertools import chain, count
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

PER_CLASS = 4
Picture = Callable[..., Image.Image]


def _labels(classes: int) -> list[int]:
    return list(range(classes)) * PER_CLASS


def _square_pixels(key: int, count: int, size: int) -> np.ndarray:
    """(count, size, size, 3)."""
    return np.random.default_rng(key).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def _cifar_batch(path: Path, key: int, labels_key: str, labels: list[int]) -> None:
    rows = _square_pixels(key, len(labels), 32).transpose(0, 3, 1, 2).reshape(len(labels), -1)
    path.write_bytes(pickle.dumps({"data": rows, labels_key: labels}))


def cifar10(root: Path, picture: Picture) -> int:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for i in range(1, 6):
        _cifar_batch(folder / f"data_batch_{i}", i, "labels", list(range(10)))
    _cifar_batch(folder / "test_batch", 6, "labels", _labels(10))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}))
    return 10


def cifar100(root: Path, picture: Picture) -> int:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    _cifar_batch(folder / "train", 0, "fine_labels", _labels(100))
    _cifar_batch(folder / "test", 1, "fine_labels", _labels(100))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"class {i}" for i in range(100)]}))
    return 100


def svhn(root: Path, picture: Picture) -> int:
    root.mkdir(parents=True)
    digits = np.array([10 if label == 0 else label for label in _labels(10)], dtype=np.uint8)
    for key, split in enumerate(["train", "test"]):
        pixels = _square_pixels(key, len(digits), 32).transpose(1, 2, 3, 0)
        savemat(root / f"{split}_32x32.mat", {"X": pixels, "y": digits[:, None]})
    return 10


def stl10(root: Path, picture: Picture) -> int:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    for key, split in enumerate(["train", "test"]):
        pixels = _square_pixels(key, 10 * PER_CLASS, 96)
        (folder / f"{split}_X.bin").write_bytes(pixels.transpose(0, 3, 2, 1).tobytes())
        (folder / f"{split}_y.bin").write_bytes(bytes(label + 1 for label in _labels(10)))
    (folder / "unlabeled_X.bin").write_bytes(b"")
    (folder / "class_names.txt").write_text("\n".join(f"class {i}" for i in range(10)))
    return 10


def flowers102(root: Path, picture: Picture) -> int:
    folder = root / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    labels = np.array(_labels(102)[: 102 * 3]) + 1
    for number in range(1, len(labels) + 1):
        picture(number, 12, 10).save(folder / "jpg" / f"image_{number:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": labels})
    ids = np.arange(1, len(labels) + 1).reshape(3, 102)
    savemat(folder / "setid.mat", {"trnid": ids[0], "valid": ids[1], "tstid": ids[2]})
    return 102


def pets(root: Path, picture: Picture) -> int:
    images, annotations = root / "oxford-iiit-pet" / "images", root / "oxford-iiit-pet" / "annotations"
    images.mkdir(parents=True)
    annotations.mkdir()
    key = count()
    for split in ("trainval", "test"):
        lines = []
        for label in range(37):
            for i in range(PER_CLASS):
                name = f"breed_{label:02d}_{split}{i}"
                picture(next(key), 12, 10).save(images / f"{name}.jpg")
                lines.append(f"{name} {label + 1} 1 1")
        (annotations / f"{split}.txt").write_text("\n".join(lines))
    return 37


def dtd(root: Path, picture: Picture) -> int:
    folder = root / "dtd" / "dtd"
    (folder / "labels").mkdir(parents=True)
    key = count()
    for split in ("train", "val", "test"):
        names = [f"texture{label:02d}/{split}{i}.jpg" for label in range(47) for i in range(PER_CLASS)]
        for name in names:
            (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            picture(next(key), 12, 10).save(folder / "images" / name)
        (folder / "labels" / f"{split}1.txt").write_text("\n".join(names))
    return 47


def food101(root: Path, picture: Picture) -> int:
    folder = root / "food-101"
    (folder / "meta").mkdir(parents=True)
    key = count()
    for split in ("train", "test"):
        names = {f"dish{c:03d}": [f"dish{c:03d}/{split}{i}" for i in range(PER_CLASS)] for c in range(101)}
        (folder / "meta" / f"{split}.json").write_text(json.dumps(names))
        for name in chain.from_iterable(names.values()):
            (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            picture(next(key), 12, 10).save(folder / "images" / f"{name}.jpg")
    return 101


def _class_folders(folder: Path, names: list[str], pattern: str, picture: Picture) -> None:
    key = count()
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(1, PER_CLASS + 2):
            picture(next(key), 12, 10).save(folder / name / pattern.format(name=name, i=i))


def eurosat(root: Path, picture: Picture) -> int:
    names = [f"Land{i}" for i in range(10)]
    _class_folders(root / "eurosat" / "2750", names, "{name}_{i}.jpg", picture)
    return 10


def caltech101(root: Path, picture: Picture) -> int:
    names = ["BACKGROUND_Google", *(f"thing{i:03d}" for i in range(101))]
    _class_folders(root / "caltech101" / "101_ObjectCategories", names, "image_{i:04d}.jpg", picture)
    return 101


WRITERS = {
    writer.__name__: writer
    for writer in (cifar10, cifar100, svhn, stl10, flowers102, pets, dtd, food101, eurosat, caltech101)
}
