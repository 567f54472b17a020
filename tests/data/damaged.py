"""Every damage to every file that a reader reads, and what the reader makes of each."""

import shutil
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any

import pytest

from damage import DAMAGES, refused
from peft_vision.core.config import ConfigError
from peft_vision.data.decode import UNREADABLE
from peft_vision.data.pictures import Files, Labelled
from peft_vision.data.vtab.pictures import Derived


def complaints(read: Callable[[], Any], files: Iterable[Path], *, unnoticed: Container[tuple[str, str]] = ()) -> str:
    """Where `read` answers to a damaged file of `files` with anything but a line that names it, or what it gives of
    undamaged ones: a line each. `unnoticed`: damages, and names of files, that nobody could tell from other data. The
    files are as they were when this returns."""
    whole, found = read(), []
    for file in files:
        content = file.read_bytes()
        for name, damage in DAMAGES.items():
            if (name, file.name) in unnoticed:
                continue
            damage(file)
            try:
                refused(read, file, unless=whole)
            except (Exception, pytest.fail.Exception) as error:
                found.append(f"{name} {file.name}: {type(error).__name__}: {str(error).splitlines()[:1]}")
            finally:
                _restore(file, content)
    return "\n".join(found)


def summary(classes: tuple[str, ...], *parts: Labelled | None) -> list[Any]:
    """All that a reader tells, and the bytes of pictures that do not lie in files of their own. ConfigError for one
    that cannot be read, as a run has it."""
    return [classes, *(_part(part) for part in parts if part is not None)]


def _part(part: Labelled) -> tuple[Any, ...]:
    indices, pictures = part.indices.tolist(), part.pictures
    names = [pictures.name(index) for index in indices]
    if isinstance(pictures, Files | Derived):
        return names, part.labels.tolist()
    contents = []
    for index, name in zip(part.indices, names, strict=True):
        try:
            contents += pictures.contents(index[None])
        except UNREADABLE as error:
            raise ConfigError(f"data: cannot read {name} ({error})") from error
    return names, part.labels.tolist(), contents


def _restore(file: Path, content: bytes) -> None:
    shutil.rmtree(f"{file}.executed", ignore_errors=True)
    shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
    file.write_bytes(content)
