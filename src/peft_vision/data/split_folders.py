"""This module finds the folders that are the splits of a data set: by their names, in any case, and by their contents.

train training   val valid validation dev   test testing
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from peft_vision.core.config import ConfigError
from peft_vision.data.walk import sub_folders

_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_SPLITS = {name: split for split, names in _NAMES.items() for name in names}


def split_of(folder: Path) -> str | None:
    """Return the split that a folder of this name holds by convention: train, val, test or None."""
    return _SPLITS.get(folder.name.casefold())


def splits_among(folders: Iterable[Path], *, key: str) -> dict[str, Path]:
    """Return the folder of each split that is among `folders`, in the order train, val, test. ConfigError, which begins
    with `key`, if two folders are the same split."""
    found: dict[str, Path] = {}
    for folder in folders:
        if (split := split_of(folder)) is None:
            continue
        if (other := found.setdefault(split, folder)) != folder:
            raise ConfigError(
                f"{key}: {folder.parent} holds {other.name} and {folder.name}, which both mean {split}; keep one"
            )
    return {split: found[split] for split in _NAMES if split in found}


def hold_folders(folders: Iterable[Path], *, key: str) -> bool:
    """Return whether any of `folders` contains folders, as the folder of a split does."""
    return any(sub_folders(folder, key=key) for folder in folders)


def are_splits(root: Path, folders: Sequence[Path], *, key: str, option: str) -> bool:
    """Return whether `folders`, all those in `root`, are splits that hold class folders; if False, they are the
    classes.

    ConfigError if they could be either, or neither; its text names `option`, which decides.
    """
    named = [folder for folder in folders if split_of(folder)]
    others = [folder.name for folder in folders if not split_of(folder)]
    inner = hold_folders(named, key=key)
    if not named or (others and not inner):
        return False
    complete = {"train", "test"} <= {split_of(folder) for folder in named}
    if complete and inner and not others:
        return True
    wanted = "it must hold train, test and perhaps val, with class folders in each, or class folders only"
    remedy = f"{option}=false takes these folders for the classes"
    if complete and inner:
        remedy += f"; {option}=true passes over {', '.join(others)}"
    raise ConfigError(f"{key}: {root} holds {', '.join(folder.name for folder in folders)}; {wanted}\n{remedy}")
