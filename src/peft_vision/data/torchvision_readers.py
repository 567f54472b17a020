"""This module reads data sets in torchvision's layout: CIFAR, SVHN and STL-10, which are a few large arrays of pictures
with their labels, and Flowers102, Pets, DTD, Food-101, EuroSAT and Caltech101, which are picture files, labelled by
lists or by folders; VOC 2012 and Pets with masks are picture files with mask files.

torchvision's own readers are not used, because they unpickle anything a file names and trust its shapes. The files of
STL-10 (Coates et al., 2011) serve the data set and the distribution shift:

X.bin  uint8 (n, 3, 96, 96), each channel in column-major order
y.bin  uint8 (n,), from 1
class_names.txt

Labels are read without decoding pictures, and pictures are in the order of torchvision's own readers.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.datasets import Flowers102

from peft_vision.core.config import ConfigError
from peft_vision.core.records import open_regular, read_bytes
from peft_vision.data.arrays import Arrays
from peft_vision.data.folders import read_folders, sub_folders
from peft_vision.data.mask_layouts import LAYOUTS, masked_part
from peft_vision.data.matlab import read_mat
from peft_vision.data.pictures import Files, Pictures
from peft_vision.data.reading import is_inside, quoted, read_json, read_lines, reading, refuse_repeated, whole_numbers
from peft_vision.data.unpickled import read_pickle

_STL10_CLASSES = 10
_LONGEST_NAME = 100
_STL10_SIDE = 96
_STL10_BYTES = 3 * _STL10_SIDE * _STL10_SIDE
_MOST_LABELS = 2**20  # images
Part = tuple[Pictures, np.ndarray | list[int], tuple[str, ...]]
"""Pictures, their labels, and the class names. The readers raise a ConfigError that names a file without them."""
KEY = "data"
_SIDE = 32  # pixels of CIFAR and SVHN
_LARGEST_SVHN = 2**31  # bytes of the images of one split; the largest that is read has 0.2 billion


def stl10_images(path: Path, *, key: str) -> np.ndarray:
    """Return uint8 (n, 96, 96, 3), memory-mapped. ConfigError for a truncated file."""
    with reading(path, f"images of {_STL10_BYTES} bytes", key=key), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if not size or size % _STL10_BYTES:
            raise ConfigError(
                f"{key}: {path} has {size} bytes, should be {_STL10_BYTES} an image; it is cut short: fetch it again"
            )
        columns = np.memmap(file, np.uint8, "r", shape=(size // _STL10_BYTES, 3, _STL10_SIDE, _STL10_SIDE))
    return columns.transpose(0, 3, 2, 1)


def stl10_labels(path: Path, *, of: Path, count: int, key: str) -> np.ndarray:
    """Return the class ids (count,), from 0, of the images in the file `of`. ConfigError if there are not `count` of
    them."""
    with reading(path, f"{count} labels of a byte each", key=key):
        labels = np.frombuffer(read_bytes(path, largest=_MOST_LABELS), np.uint8)
    if len(labels) != count:
        raise ConfigError(f"{key}: {path} has {len(labels)} labels, should be {count}, one for each of {of.name}")
    return whole_numbers(labels, path, within=(1, _STL10_CLASSES), key=key) - 1


def stl10_classes(path: Path, *, key: str) -> tuple[str, ...]:
    """Return the ten class names in the order of the labels."""
    names = tuple(
        line.strip() for line in read_lines(path, f"the names of {_STL10_CLASSES} classes", key=key) if line.strip()
    )
    if not len(names) == len(set(names)) == _STL10_CLASSES or max(map(len, names)) > _LONGEST_NAME:
        raise ConfigError(
            f"{key}: {path} names {len(set(names))} classes in {len(names)} lines, should be {_STL10_CLASSES}"
        )
    return names


def cifar10(root: Path, *, train: bool) -> Part:
    """Read CIFAR-10 from its five training batches or its test batch."""
    folder = root / "cifar-10-batches-py"
    batches = [f"data_batch_{number}" for number in range(1, 6)] if train else ["test_batch"]
    return _cifar(folder, batches, "labels", "batches.meta", "label_names", 10)


def cifar100(root: Path, *, train: bool) -> Part:
    """Read CIFAR-100 with its fine labels."""
    batches = ["train" if train else "test"]
    return _cifar(root / "cifar-100-python", batches, "fine_labels", "meta", "fine_label_names", 100)


def svhn(root: Path, *, split: str) -> Part:
    """Read SVHN; its label of the digit 0 is 10, which becomes 0."""
    file = root / f"{split}_32x32.mat"
    pixels, labels = read_mat(file, "X", "y", squeeze=False, largest=_LARGEST_SVHN, key=KEY, remedy="")
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[:3] != (_SIDE, _SIDE, 3):
        raise ConfigError(f"{KEY}: {file} holds X of {pixels.dtype} {pixels.shape}, should be uint8 (32, 32, 3, n)")
    count = pixels.shape[3]
    digits = whole_numbers(labels.reshape(-1), file, within=(1, 10), per=(count, ""), floats=True, key=KEY)
    return Arrays(pixels.transpose(3, 0, 1, 2)), digits % 10, tuple(str(digit) for digit in range(10))


def stl10(root: Path, *, split: str) -> Part:
    """Read the labelled images of STL-10; the unlabelled ones are not read."""
    folder = root / "stl10_binary"
    data, labels = folder / f"{split}_X.bin", folder / f"{split}_y.bin"
    pixels, classes = stl10_images(data, key=KEY), stl10_classes(folder / "class_names.txt", key=KEY)
    return Arrays(np.array(pixels)), stl10_labels(labels, of=data, count=len(pixels), key=KEY), classes


def _cifar(folder: Path, batches: list[str], labels_key: str, meta: str, names_key: str, num_classes: int) -> Part:
    parts = [_batch(folder / batch, labels_key, num_classes) for batch in batches]
    file, expected = folder / meta, f"a pickle of the {num_classes} {names_key}"
    with reading(file, expected, key=KEY, remedy=""):
        names = _pickle(file, expected)[names_key]
        if not isinstance(names, list) or {type(name) for name in names} != {str}:
            raise ValueError("names that are no texts")
        if not len(names) == len(set(names)) == num_classes:
            raise ValueError(f"{len(set(names))} different names")
    rows = np.vstack([pixels for pixels, _ in parts])
    pictures = rows.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    return Arrays(pictures), np.concatenate([labels for _, labels in parts]), tuple(names)


def _batch(file: Path, labels_key: str, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels (n, 3072) and labels (n,) of a batch file."""
    expected = f"a pickle of data and {labels_key}"
    with reading(file, expected, key=KEY, remedy=""):
        content = _pickle(file, expected)
        pixels, labels = content["data"].array(), content[labels_key]
        if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3 * _SIDE**2:
            raise ValueError(f"data of {pixels.dtype} {pixels.shape}, should be uint8 (n, 3072)")
        if not isinstance(labels, list) or {type(label) for label in labels} != {int}:
            raise ValueError(f"{labels_key} that are no list of whole numbers")
        last = num_classes - 1
        return pixels, whole_numbers(labels, file, within=(0, last), per=(len(pixels), ""), key=KEY)


def _pickle(file: Path, expected: str) -> Mapping[str, Any]:
    return read_pickle(file, expected, key=KEY, remedy="")


_FLOWERS = {"train": "trnid", "val": "valid", "test": "tstid"}
_BACKGROUND = "BACKGROUND_Google"  # a folder that is not a class
_MOST_FLOWERS = 99_999  # five digits of a file's name
_PETS, _TEXTURES, _DISHES = 37, 47, 101


def flowers102(root: Path, *, split: str) -> Part:
    """Read Flowers102, whose labels and splits are MATLAB tables."""
    folder, classes = root / "flowers-102", tuple(Flowers102.classes)
    labels_file, splits_file = folder / "imagelabels.mat", folder / "setid.mat"
    (labels,) = read_mat(labels_file, "labels", key=KEY, remedy="")
    labels = whole_numbers(labels, labels_file, within=(1, len(classes)), floats=True, key=KEY) - 1
    name = _FLOWERS[split]
    (images,) = read_mat(splits_file, name, key=KEY, remedy="")
    images = whole_numbers(images, splits_file, what=name, within=(1, _MOST_FLOWERS), floats=True, key=KEY)
    refuse_repeated(images.tolist(), splits_file, key=KEY)
    if images.max() > len(labels):
        raise ConfigError(
            f"{KEY}: {splits_file} names image {images.max()}, but {labels_file.name} has {len(labels)} labels"
        )
    paths = [f"flowers-102/jpg/image_{image:05d}.jpg" for image in images.tolist()]
    return Files(root, paths), labels[images - 1], classes


def pets(root: Path, *, split: str) -> Part:
    """Read Oxford-IIIT Pets, one line per image: name, label from 1, species, breed of the species. The class name is
    the beginning of the image's name."""
    file = root / "oxford-iiit-pet" / "annotations" / f"{split}.txt"
    names, labels, breeds = [], [], {}
    for number, line in _numbered(file, "lines of a name and three numbers"):
        name, *numbers = line.split()
        if len(numbers) != 3 or not all(word.isdecimal() and len(word) < 4 for word in numbers) or not _is_one(name):
            raise _strange(file, number, line, "NAME LABEL SPECIES BREED")
        names.append(name)
        labels.append(int(numbers[0]) - 1)
        if breeds.setdefault(labels[-1], name.rpartition("_")[0]) != name.rpartition("_")[0]:
            raise _strange(file, number, line, f"of a class other than {breeds[labels[-1]]}")
    refuse_repeated(names, file, key=KEY)
    _require_classes(file, len(set(breeds.values())), _PETS)
    labels = whole_numbers(labels, file, within=(0, _PETS - 1), key=KEY)
    classes = tuple(" ".join(part.title() for part in breeds[label].split("_")) for label in range(_PETS))
    return Files(root, [f"oxford-iiit-pet/images/{name}.jpg" for name in names]), labels, classes


def voc_masks(root: Path, *, image_set: str) -> Part:
    """Read VOC 2012 with its masks of 20 classes and background; `image_set` is train or val."""
    return _masked(root / "VOCdevkit" / "VOC2012", "voc", {"train": "train", "val": "test"}[image_set])


def pets_masks(root: Path, *, split: str, target_types: str) -> Part:
    """Read Oxford-IIIT Pets with its trimaps; `split` is trainval or test."""
    return _masked(root / "oxford-iiit-pet", "pets", {"trainval": "train", "test": "test"}[split])


def _masked(folder: Path, name: str, split: str) -> Part:
    """Return pictures with masks, which are read with them, so that the labels are zeros."""
    layout = LAYOUTS[name]
    code = layout.code(folder, KEY)
    part = masked_part(folder, layout.places[split], code, key=KEY, source=layout.source)
    return part.pictures, np.zeros(len(part)), code.classes


def dtd(root: Path, *, split: str) -> Part:
    """Read DTD, one line per image: class and file. This is partition 1 of ten, the one usually reported."""
    file = root / "dtd" / "dtd" / "labels" / f"{split}1.txt"
    names = []
    for number, line in _numbered(file, "lines of CLASS/FILE"):
        if len(line.split("/")) != 2 or not line.endswith(".jpg") or not is_inside(line) or not _is_one(line):
            raise _strange(file, number, line, "CLASS/FILE.jpg")
        names.append(line)
    refuse_repeated(names, file, key=KEY)
    classes = tuple(sorted({name.split("/")[0] for name in names}))
    _require_classes(file, len(classes), _TEXTURES)
    places = {name: place for place, name in enumerate(classes)}
    return (
        Files(root, [f"dtd/dtd/images/{name}" for name in names]),
        [places[name.split("/")[0]] for name in names],
        classes,
    )


def food101(root: Path, *, split: str) -> Part:
    """Read Food-101 from a JSON object that lists the images of each class, without file endings."""
    file, expected = root / "food-101" / "meta" / f"{split}.json", "one object with a list of images for each class"
    content = read_json(file, expected, key=KEY, remedy="")
    if not isinstance(content, dict) or not all(_is_list(images) for images in content.values()):
        raise ConfigError(f"{KEY}: {file} should be {expected}")
    _require_classes(file, len(content), _DISHES)
    names = [image for images in content.values() for image in images]
    if strange := [name for name in names if not is_inside(name)]:
        raise ConfigError(f"{KEY}: {file} names {quoted(strange[0])}, should be CLASS/FILE")
    refuse_repeated(names, file, key=KEY)
    classes = tuple(sorted(content))
    places = {name: place for place, name in enumerate(classes)}
    labels = [places[name] for name, images in content.items() for _ in images]
    return Files(root, [f"food-101/images/{name}.jpg" for name in names]), labels, classes


def eurosat(root: Path) -> Part:
    """Read EuroSAT, one folder per class."""
    return _class_folders(root, root / "eurosat" / "2750", left_out=())


def caltech101(root: Path) -> Part:
    """Read Caltech101, one folder per class, without the background folder."""
    root = root / "caltech101"
    return _class_folders(root, root / "101_ObjectCategories", left_out=(_BACKGROUND,))


def _class_folders(root: Path, folder: Path, *, left_out: Sequence[str]) -> Part:
    names = [path.name for path in sub_folders(folder, key=KEY) if path.name not in left_out]
    part = read_folders(root, folder, {name: label for label, name in enumerate(names)}, key=KEY)
    return part.pictures, part.labels, tuple(names)


def _numbered(file: Path, expected: str) -> list[tuple[int, str]]:
    """Return the lines of a list with their numbers, from 1. ConfigError if the list is empty."""
    lines = read_lines(file, expected, key=KEY, remedy="")
    if not any(lines):
        raise ConfigError(f"{KEY}: {file} is empty, should be {expected}")
    return [(number, line.strip()) for number, line in enumerate(lines, start=1)]


def _is_one(name: str) -> bool:
    """Return whether `name` is a single name without spaces that does not lead outside its folder."""
    return is_inside(name) and len(name.split()) == 1


def _is_list(images: object) -> bool:
    return isinstance(images, list) and bool(images) and all(isinstance(image, str) for image in images)


def _strange(file: Path, number: int, line: str, wanted: str) -> ConfigError:
    return ConfigError(f"{KEY}: {file} line {number} is {quoted(line)}, should be {wanted}")


def _require_classes(file: Path, found: int, wanted: int) -> None:
    if found != wanted:
        raise ConfigError(f"{KEY}: {file} has images of {found} classes, should be {wanted}; it may be cut short")
