"""This module lists the sub-folders and files of a folder, except what programs and archives leave among the data.

Links are followed. No folder is entered twice, so links in a circle end, and a picture has one name: the one without
a link, if there is one.

Folders that are the splits of a data set are found by their names, in any case, and by their contents:

train training   val valid validation dev   test testing
"""

import os
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from peft_vision.core.config import ConfigError
from peft_vision.core.output import shown
from peft_vision.data.bands import ARRAY_ENDINGS
from peft_vision.data.decode import endings
from peft_vision.data.pictures import Files, Labelled, labelled
from peft_vision.data.reading import first_few, require

_LEFT_BEHIND = frozenset(
    (
        *("thumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),  # Windows
        *("@eadir", "@recycle", "#recycle", "#snapshot", "@recently-snapshot"),  # network drives
        *("lost+found", "__pycache__"),
    )
)

_Place = tuple[int, int]  # device and inode: the same for every name of a folder
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_SPLITS = {name: split for split, names in SPLIT_NAMES.items() for name in names}


def left_behind(name: str) -> bool:
    """Return whether a file or folder of this name is never data: it is hidden, or left by a program or an archive."""
    name = name.lower()
    return name.startswith((".", "__macosx")) or name in _LEFT_BEHIND


def sub_folders(folder: Path, *, key: str) -> list[Path]:
    """Return the sub-folders that may hold data, sorted by name. ConfigError, which begins with `key`, if they cannot
    be listed or a name is not UTF-8."""
    entries = _entries(str(folder), key)
    found = sorted(Path(entry.path) for entry in entries if not left_behind(entry.name) and _is_folder(entry))
    for path in found:
        _refuse_other_encoding(path, key)  # class names are text that is stored in results and adapters
    return found


def image_files(folder: Path, root: Path, *, key: str) -> list[str]:
    """Return the paths of all files below `folder` with the ending of a picture, relative to `root`, sorted; where
    there are none, those of NumPy's arrays."""
    return files_below(folder, root, endings(), key=key) or files_below(folder, root, ARRAY_ENDINGS, key=key)


def class_files(folders: Sequence[Path], root: Path, *, key: str) -> list[list[str]]:
    """Return the pictures in each folder, as `image_files`, or, where there are none in any, NumPy's arrays; none of
    the folders is entered through a link from another."""
    places = [_place(folder, key) for folder in folders]
    found = [files_below(folder, root, endings(), key=key, elsewhere=places) for folder in folders]
    if any(found):
        return found
    return [files_below(folder, root, ARRAY_ENDINGS, key=key, elsewhere=places) for folder in folders]


def files_below(
    folder: Path, root: Path, ends: tuple[str, ...], *, key: str, elsewhere: Collection[_Place] = ()
) -> list[str]:
    """Return the paths of all files below `folder` whose names end with one of `ends` (lower case), relative to `root`,
    sorted. Links to `elsewhere` and to the parents of `folder` are not followed. A result may be an irregular file, a
    broken link, or an empty folder with such a name."""
    seen = {*elsewhere, *(_place(above, key) for above in folder.resolve().parents)} - {_place(folder, key)}
    found: list[str] = []
    waiting, links = [str(folder)], deque[str]()
    while waiting or links:
        where = waiting.pop() if waiting else links.popleft()
        if (place := _place(where, key)) in seen:
            continue
        seen.add(place)
        before = os.path.relpath(where, root)
        before = "" if before == os.curdir else f"{before}{os.sep}"
        entries = _entries(where, key)
        if not entries and where.lower().endswith(ends):
            found.append(os.path.relpath(where, root))  # an empty folder named like a file: reading it fails
        for entry in entries:
            if left_behind(entry.name):
                continue
            if _is_folder(entry):
                (links if entry.is_symlink() else waiting).append(entry.path)
            elif entry.name.lower().endswith(ends):
                found.append(f"{before}{entry.name}")
    return sorted(found)


def _refuse_other_encoding(folder: Path, key: str) -> None:
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{key}: the name of folder {str(folder)!r} is no UTF-8; rename it") from error


def _entries(folder: str, key: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise _unlisted(folder, error, key) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links that point to each other
        return False


def _place(folder: Path | str, key: str) -> _Place:
    try:
        found = os.stat(folder)
    except OSError as error:
        raise _unlisted(folder, error, key) from error
    return found.st_dev, found.st_ino


def _unlisted(folder: Path | str, error: OSError, key: str) -> ConfigError:
    return ConfigError(f"{key}: cannot list folder {shown(Path(folder))} ({error.strerror})")


def split_named(name: str) -> str | None:
    """Return the split that has this name by convention: train, val, test or None."""
    return _SPLITS.get(name.casefold())


def split_of(folder: Path) -> str | None:
    """Return the split that a folder of this name holds by convention: train, val, test or None."""
    return split_named(folder.name)


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
    return {split: found[split] for split in SPLIT_NAMES if split in found}


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


def require_folders(folder: Path, names: Collection[str], *, alone: bool, key: str, source: str) -> None:
    """Raise ConfigError unless `folder` holds the sub-folders `names` and, if `alone`, no others. Its message begins
    with `key` and ends with `source`: where the folder can be obtained, its layout and its size."""
    require(folder, [f"{name}/" for name in names], what="class folders", source=source, key=key)
    unknown = {path.name for path in sub_folders(folder, key=key)}.difference(names) if alone else ()
    if unknown:
        raise ConfigError(
            f"{key}: {folder} holds {len(unknown)} folders beside its {len(names)} classes: "
            f"{first_few(sorted(unknown))}\n{source}"
        )


def read_folders(root: Path, folder: Path, labels: Mapping[str, int], *, key: str) -> Labelled:
    """Return the pictures in the sub-folders of `folder` that `labels` names, in the order of `labels`; picture names
    are relative to `root`. ConfigError if a class has none."""
    names = list(labels)
    found = dict(zip(names, class_files([folder / name for name in names], root, key=key), strict=True))
    if empty := [name for name, paths in found.items() if not paths]:
        raise ConfigError(f"{key}: no image in {len(empty)} class folders of {folder}: {first_few(empty)}")
    paths = [path for class_paths in found.values() for path in class_paths]
    return labelled(Files(root, paths), [labels[name] for name, class_paths in found.items() for _ in class_paths])
