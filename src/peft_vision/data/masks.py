"""This module opens pictures with masks: a class for each pixel.

folders     path/train/images/a.jpg, path/train/masks/a.png, and the same in val/ and test/, if there are any
            path/images/train/a.jpg, path/masks/train/a.png, likewise
            path/images/a.jpg, path/masks/a.png: `test_fraction` is the test part
ade20k      images/training, annotations/training; tested on validation
voc         JPEGImages, SegmentationClass, ImageSets/Segmentation/train.txt; tested on val.txt
cityscapes  leftImg8bit/train/CITY, gtFine/train/CITY, *_labelIds.png; tested on val
camvid      train, trainannot, val, valannot, test, testannot, as prepared for SegNet
pets        images, annotations/trimaps, annotations/trainval.txt, test.txt

A picture and its mask have one path, but for its ending and what `layout` adds. Published sets are tested on the
validation masks, since those of their test images are not public; `val_fraction` of train validates.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from peft_vision.core.config import FILE, ConfigError, OnlyWith, component
from peft_vision.core.output import shown
from peft_vision.data.augment import MOVE_MASKS
from peft_vision.data.base import Data
from peft_vision.data.folders import splits_among, sub_folders
from peft_vision.data.mask_files import IGNORED, MOST_CLASSES, MaskCode
from peft_vision.data.mask_layouts import LAYOUTS, SplitFolders, masked_part
from peft_vision.data.reading import first_few, home, located, quoted, read_lines
from peft_vision.data.splits import LabelledSets

_KEY = "data.path"
_LONGEST_NAME = 255
_OF_FOLDERS = OnlyWith("layout", "folders")
_Value = Annotated[int, Field(ge=0, lt=2**16)]


@component
class Masks(Data):
    """Pictures with masks. The fields from `classes` on are for layout=folders; the other layouts have their own.

    `classes`: the names of the classes, in the order of their values from 0, or from 1 with `reduce_zero_label`, which
    ignores 0; `classes_file` has one on each line. `ignore`: values that are neither trained nor scored. `colors`: the
    class of each colour "red,green,blue" of RGB masks, null for ignored ones. `images`, `masks`: the names of the
    folders; `mask_end`: what the names of mask files have after those of their pictures.
    """

    path: Annotated[str, FILE]
    layout: Literal["folders", *LAYOUTS]
    test_fraction: Annotated[float, Field(gt=0, lt=1)]
    classes: tuple[str, ...] | None
    classes_file: Annotated[str | None, FILE]
    ignore: Annotated[tuple[_Value, ...], _OF_FOLDERS]
    reduce_zero_label: Annotated[bool, _OF_FOLDERS]
    colors: dict[str, str | None] | None
    images: Annotated[str, _OF_FOLDERS]
    masks: Annotated[str, _OF_FOLDERS]
    mask_end: Annotated[str, _OF_FOLDERS]

    @model_validator(mode="after")
    def _fits(self) -> "Masks":
        if self.augment not in MOVE_MASKS:
            raise ValueError(f"augment={self.augment} does not move masks; {', '.join(MOVE_MASKS)} do")
        given = {"classes": self.classes, "classes_file": self.classes_file, "colors": self.colors}
        given = [name for name, value in given.items() if value is not None]
        if self.layout != "folders" and given:
            raise ValueError(f"layout={self.layout} has classes of its own; {given[0]} is for layout=folders (null)")
        return self

    def open(self) -> LabelledSets:
        """Return pictures with masks, which are read with them."""
        root = located(self.path)
        if not root.is_dir():
            raise ConfigError(f"{_KEY}: no folder {root}")
        layout = LAYOUTS.get(self.layout)
        if layout is None:
            places, passed = _places(root, self.images, self.masks, self.mask_end)
            code, remark = self._code(), f"without {passed}" if passed else ""
            source = f"see data.layout; {_KEY} is the folder above these"
        else:
            root = home(root, *layout.homes)
            places, code, remark, source = layout.places, layout.code(root, _KEY), layout.remark, layout.source
        parts = {split: masked_part(root, place, code, key=_KEY, source=source) for split, place in places.items()}
        return LabelledSets(
            name=shown(root),
            train=parts["train"],
            val=parts.get("val"),
            test=parts.get("test"),
            classes=code.classes,
            remark=remark,
            test_fraction=self.test_fraction,
            gaps=True,
        )

    def _code(self) -> MaskCode:
        classes, key = self.classes, "data.classes"
        if (classes is None) == (self.classes_file is None):
            raise ConfigError(
                "data.classes: set it to the names of the classes in the order of their values, or data.classes_file "
                "to a file with one on each line"
            )
        if classes is None:
            file = located(self.classes_file)
            lines = read_lines(file, "the name of a class on each line", key="data.classes_file", remedy="")
            classes, key = tuple(line.strip() for line in lines if line.strip()), f"data.classes_file: {shown(file)}"
        if strange := [name for name in classes if not name.isprintable() or len(name) > _LONGEST_NAME]:
            raise ConfigError(f"{key}: {quoted(strange[0])} should be the name of a class")
        if not 2 <= len(classes) <= MOST_CLASSES:
            raise ConfigError(f"{key}: {len(classes)} classes; masks have 2 to {MOST_CLASSES}")
        if twice := [name for name in dict.fromkeys(classes) if classes.count(name) > 1]:
            raise ConfigError(f"{key}: class {twice[0]!r} is named twice")
        first = int(self.reduce_zero_label)
        values = {place + first: place for place in range(len(classes))} | dict.fromkeys(self.ignore, IGNORED)
        if self.reduce_zero_label:
            values[0] = IGNORED
        if self.ignore and len(set(values.values()) - {IGNORED}) < len(classes):
            hidden = [name for place, name in enumerate(classes) if values[place + first] == IGNORED]
            raise ConfigError(f"data.ignore: holds the value of class {hidden[0]!r}; leave one of the two out")
        return MaskCode(classes, values, None if self.colors is None else _colors(self.colors, classes))


def _colors(colors: Mapping[str, str | None], classes: Sequence[str]) -> dict[tuple[int, int, int], int]:
    """Return the class of each colour. ConfigError for what is no colour, or no class."""
    found = {}
    for color, name in colors.items():
        parts = [part.strip() for part in color.split(",")]
        if len(parts) != 3 or not all(part.isdecimal() and len(part) <= 3 and int(part) <= 255 for part in parts):
            raise ConfigError(f"data.colors: {color!r} should be red,green,blue of 0 to 255, such as '128,64,128'")
        if name is not None and name not in classes:
            raise ConfigError(f"data.colors: {color!r} means {name!r}, which is not among the {len(classes)} classes")
        found[tuple(map(int, parts))] = IGNORED if name is None else classes.index(name)
    if missing := [name for name in classes if name not in colors.values()]:
        raise ConfigError(f"data.colors: no colour means {missing[0]!r}")
    return found


def _places(root: Path, images: str, masks: str, mask_end: str) -> tuple[dict[str, SplitFolders], str]:
    """Return the folders of pictures and masks of each split, and the names of folders that are passed over. One split,
    train, if they are not divided."""
    folders = sub_folders(root, key=_KEY)
    splits = {
        split: folder
        for split, folder in splits_among(folders, key=_KEY).items()
        if (folder / images).is_dir() or (folder / masks).is_dir()
    }
    both = [root / images, root / masks]
    if splits and any(folder.is_dir() for folder in both):
        raise ConfigError(
            f"{_KEY}: {root} holds {' and '.join(folder.name for folder in splits.values())}, and {images} or {masks} "
            "beside; keep one of the two layouts"
        )
    if not splits and not all(folder.is_dir() for folder in both):
        raise ConfigError(
            f"{_KEY}: {root} should hold {images}/ and {masks}/, or train/{images}/, train/{masks}/ and perhaps the "
            f"same in val/ and test/; it holds {first_few([folder.name for folder in folders]) or 'no folders'}"
        )
    if splits:
        places = {
            split: SplitFolders(f"{folder.name}/{images}", f"{folder.name}/{masks}", mask_end=mask_end)
            for split, folder in splits.items()
        }
        passed = [folder.name for folder in folders if folder not in splits.values()]
    else:
        inner = [splits_among(sub_folders(folder, key=_KEY), key=_KEY) for folder in both]
        if inner[0].keys() != inner[1].keys():
            found = [", ".join(folder.name for folder in split.values()) or "no splits" for split in inner]
            raise ConfigError(f"{_KEY}: {both[0]} holds {found[0]}, and {both[1]} holds {found[1]}")
        places = {
            split: SplitFolders(f"{images}/{folder.name}", f"{masks}/{inner[1][split].name}", mask_end=mask_end)
            for split, folder in inner[0].items()
        } or {"train": SplitFolders(images, masks, mask_end=mask_end)}
        passed = []
    if "train" not in places:
        raise ConfigError(f"{_KEY}: {root} holds {', '.join(places)} and no train")
    return places, ", ".join(passed)
