"""This module reads Flowers102, Pets, DTD, Food-101, EuroSAT and Caltech101 in torchvision's layout: picture files,
labelled by lists or by folders.

Labels are read without decoding pictures, and pictures are in the order of torchvision's own readers.
"""

from collections.abc import Sequence
from pathlib import Path

from torchvision.datasets import Flowers102

from peft_vision.core.config import ConfigError
from peft_vision.data.folders import read_folders, sub_folders
from peft_vision.data.matlab import read_mat
from peft_vision.data.pictures import Files
from peft_vision.data.reading import is_inside, quoted, read_json, read_lines, refuse_repeated, whole_numbers
from peft_vision.data.torchvision_arrays import KEY, Part

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
