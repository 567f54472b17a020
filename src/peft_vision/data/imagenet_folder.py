"""This module reads a folder with a sub-folder of pictures per class, the layout of ImageNet and data sets like it.

train/n01440764/n01440764_18.JPEG
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from peft_vision.core.config import ConfigError
from peft_vision.data.pictures import Files, Labelled, labelled
from peft_vision.data.walk import class_files, sub_folders

_NAMED = 3  # class folders named in a message


def require_folders(folder: Path, names: Collection[str], *, alone: bool, key: str, source: str) -> None:
    """Raise ConfigError unless `folder` holds the sub-folders `names` and, if `alone`, no others. Its message begins
    with `key` and ends with `source`: where the folder can be obtained, its layout and its size."""
    if not folder.is_dir():
        raise ConfigError(f"{key}: no folder {folder}\n{source}")
    there = {path.name for path in sub_folders(folder, key=key)}
    if missing := [name for name in names if name not in there]:
        raise ConfigError(
            f"{key}: {folder} lacks {len(missing)} of {len(names)} class folders: {_first(missing)}\n{source}"
        )
    if alone and (unknown := there.difference(names)):
        raise ConfigError(
            f"{key}: {folder} holds {len(unknown)} folders beside its {len(names)} classes: {_first(sorted(unknown))}"
            f"\n{source}"
        )


def read_folders(root: Path, folder: Path, labels: Mapping[str, int], *, key: str) -> Labelled:
    """Return the pictures in the sub-folders of `folder` that `labels` names, in the order of `labels`; picture names
    are relative to `root`. ConfigError if a class has none."""
    names = list(labels)
    found = dict(zip(names, class_files([folder / name for name in names], root, key=key), strict=True))
    if empty := [name for name, paths in found.items() if not paths]:
        raise ConfigError(f"{key}: no image in {len(empty)} class folders of {folder}: {_first(empty)}")
    paths = [path for class_paths in found.values() for path in class_paths]
    return labelled(Files(root, paths), [labels[name] for name, class_paths in found.items() for _ in class_paths])


def _first(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_NAMED]) + (", ..." if names[_NAMED:] else "")
