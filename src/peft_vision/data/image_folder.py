"""This module reads a user's own pictures: a folder per class, under train/ [val/] test/ or all in one place.

    path/train/cat/*.jpg  path/val/cat/*.jpg  path/test/cat/*.jpg    divided by the user
    path/cat/*.jpg  path/dog/**/*.png                                `test_fraction` of each class is the test part

The splits may have other names (folders.py), and a class may be called train if its folder holds no folders.

A file counts as a picture by its ending; other files, hidden ones, and leftovers of archives and programs are passed
over (folders.py).
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from peft_vision.core.config import FILE, ConfigError, HashDefault, component
from peft_vision.core.output import shown
from peft_vision.data.base import Data
from peft_vision.data.folders import are_splits, class_files, splits_among, sub_folders
from peft_vision.data.pictures import Files, Labelled, labelled
from peft_vision.data.reading import located
from peft_vision.data.splits import LabelledSets

_KEY, _OPTION = "data.path", "data.divided"


@component
class ImageFolder(Data):
    """A folder of pictures by class. `divided`: whether it is divided into train/ and test/; None: detect it from the
    folders. `test_fraction` is used only if it is not divided."""

    path: Annotated[str, FILE]
    divided: Annotated[bool | None, HashDefault(None)]
    test_fraction: Annotated[float, Field(gt=0, lt=1)]

    def open(self) -> LabelledSets:
        """Return the splits; class ids follow the sorted names of the training classes."""
        root = located(self.path)
        if not root.is_dir():
            raise ConfigError(f"data.path: no folder {root}")
        folders = sub_folders(root, key=_KEY)
        divided = are_splits(root, folders, key=_KEY, option=_OPTION) if self.divided is None else self.divided
        if not divided:
            classes = _classes(root)
            whole = _pictures(root, root, classes)
            return LabelledSets(shown(root), whole, None, None, classes, remark="", test_fraction=self.test_fraction)
        splits = splits_among(folders, key=_KEY)
        if missing := {"train", "test"} - splits.keys():
            raise ConfigError(f"{_OPTION}: got true, but {root} holds no {' and no '.join(sorted(missing))}")
        classes = _classes(splits["train"])
        parts = {split: _pictures(root, folder, classes) for split, folder in splits.items()}
        passed = ", ".join(folder.name for folder in folders if folder not in splits.values())
        return LabelledSets(
            name=shown(root),
            train=parts["train"],
            val=parts.get("val"),
            test=parts["test"],
            classes=classes,
            remark=f"without {passed}" if passed else "",
        )


def _classes(folder: Path) -> tuple[str, ...]:
    classes = tuple(path.name for path in sub_folders(folder, key=_KEY))
    if not classes:
        raise ConfigError(f"data.path: no class folders in {folder}; each class is a folder of its pictures")
    return classes


def _pictures(root: Path, folder: Path, classes: tuple[str, ...]) -> Labelled:
    """Return the labelled pictures of the class folders in `folder`, which may lack some classes but not add any."""
    paths: list[str] = []
    labels: list[int] = []
    folders = sub_folders(folder, key=_KEY)
    for class_folder, found in zip(folders, class_files(folders, root, key=_KEY), strict=True):
        if class_folder.name not in classes:
            raise ConfigError(f"data.path: class {class_folder.name!r} of {folder} is not among the training classes")
        if not found:
            raise ConfigError(f"data.path: no image in class folder {class_folder}")
        paths += found
        labels += [classes.index(class_folder.name)] * len(found)
    if not paths:
        raise ConfigError(f"data.path: no class folders in {folder}; each class is a folder of its pictures")
    return labelled(Files(root, paths), labels)
