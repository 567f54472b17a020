"""This module reads a user's own shifted pictures: one folder or several, each with a sub-folder for every class.

path: photos                               path/cat/*.jpg  path/dog/**/*.png
path: {art: pacs/art, sketch: pacs/sketch} two shifts
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from peft_vision.core.config import FILE, ConfigError, component
from peft_vision.data.folders import class_files, hold_folders, split_of, sub_folders
from peft_vision.data.pictures import Files, labelled
from peft_vision.data.reading import located
from peft_vision.ood.base import OOD, Shift


@component
class ShiftedFolder(OOD):
    """A set of the user's own pictures. `path`: a folder, or a folder for each shift by name."""

    path: Annotated[str | dict[str, str], FILE]

    def check(self) -> None:
        for name, folder in self._folders().items():
            where = f"path.{name}" if name else "path"
            if not folder.is_dir():
                raise ConfigError(f"{where}: no folder {folder}")
            if not (inner := sub_folders(folder, key=where)):
                raise ConfigError(f"{where}: no class folders in {folder}; each class is a folder of its pictures")
            if all(map(split_of, inner)) and hold_folders(inner, key=where):
                raise ConfigError(
                    f"{where}: {folder} is divided into {', '.join(path.name for path in inner)}; "
                    f"give one of them, such as {inner[-1]}"
                )

    def open(self) -> Mapping[str, Shift]:
        return {name: read_folder(folder) for name, folder in self._folders().items()}

    def _folders(self) -> dict[str, Path]:
        paths = {"": self.path} if isinstance(self.path, str) else self.path
        return {name: located(path) for name, path in paths.items()}


def read_folder(root: Path) -> Shift:
    """Return the pictures of the class folders in `root`, classes sorted by name. ConfigError for a class without
    images."""
    folders = sub_folders(root, key="path")
    found = class_files(folders, root, key="path")
    for folder, files in zip(folders, found, strict=True):
        if not files:
            raise ConfigError(f"path: no image in class folder {folder}")
    labels = [label for label, files in enumerate(found) for _ in files]
    return Shift(labelled(Files(root, [path for files in found for path in files]), labels), names(folders))


def names(folders: list[Path]) -> tuple[str, ...]:
    """Return the names of the classes, one for each folder."""
    return tuple(folder.name for folder in folders)
