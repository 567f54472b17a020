"""This module lists the sub-folders and files of a folder, except what programs and archives leave among the data.

Links are followed. No folder is entered twice, so links in a circle end, and a picture has one name: the one without
a link, if there is one.
"""

import os
from collections import deque
from collections.abc import Collection, Sequence
from pathlib import Path

from peft_vision.core.config import ConfigError
from peft_vision.core.output import shown
from peft_vision.data.opening import endings

_LEFT_BEHIND = frozenset(
    (
        *("thumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),  # Windows
        *("@eadir", "@recycle", "#recycle", "#snapshot", "@recently-snapshot"),  # network drives
        *("lost+found", "__pycache__"),
    )
)

_Place = tuple[int, int]  # device and inode: the same for every name of a folder


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
    """Return the paths of all files below `folder` with the ending of a picture, relative to `root`, sorted."""
    return files_below(folder, root, endings(), key=key)


def class_files(folders: Sequence[Path], root: Path, *, key: str) -> list[list[str]]:
    """Return `image_files` of each folder; none of the folders is entered through a link from another."""
    places = [_place(folder, key) for folder in folders]
    return [files_below(folder, root, endings(), key=key, elsewhere=places) for folder in folders]


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
