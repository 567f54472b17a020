"""This module finds the pictures that a command names: a folder, a file, a pattern, or several of these in a list."""

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft_vision.core.config import ConfigError
from peft_vision.core.printable import shown
from peft_vision.data.pictures import Files
from peft_vision.data.walk import image_files

_KEY = "images"


@dataclass(frozen=True)
class Given:
    """The pictures that a command names. `files`: named relative to the folder that holds them all. `place`: that
    folder, or the only file; `name`: the folder name of their predictions."""

    files: Files
    place: Path
    name: str


def given_pictures(images: Any) -> Given:
    """Return the pictures that the value of `images` names, each once, sorted. ConfigError where it names none."""
    texts = [str(text) for text in (images if isinstance(images, list) else [images])]
    if not texts:
        raise ConfigError("images: an empty list; name a picture, a folder, or a pattern such as photos/*.jpg")
    named = [path for text in texts for path in _named(text)]
    if len(named) == 1 and named[0].is_dir():
        root, name = named[0], named[0].resolve().name
    elif len(named) == 1:
        root, name = named[0].parent, named[0].stem
    else:
        root = Path(os.path.commonpath([path if path.is_dir() else path.parent for path in named]))
        name = "selection"
    paths = sorted(set(_below(named, root)))
    place = named[0] if len(named) == 1 else root
    if not paths:
        raise ConfigError(
            f"images: no picture in {shown(place)}; pictures are files with an ending such as .jpg, .png or .webp"
        )
    return Given(Files(root, paths), place, name)


def _named(text: str) -> list[Path]:
    """Return the absolute paths that a file, folder or pattern names. ConfigError where there are none."""
    path = Path(os.path.abspath(Path(text).expanduser()))
    if os.path.lexists(path):
        return [path]
    if not glob.has_magic(text):
        raise ConfigError(f"images: no {'file' if path.suffix else 'folder'} {path}")
    found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    if not found:
        raise ConfigError(f"images: nothing matches {shown(path)}")
    return found


def _below(named: Iterable[Path], root: Path) -> Iterator[str]:
    """Yield the paths, relative to `root`, of the pictures in each named folder and of each named file."""
    for path in named:
        if path.is_dir():
            yield from image_files(path, root, key=_KEY)
        else:
            yield os.path.relpath(path, root)
