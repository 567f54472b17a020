"""This module checks that the files of a data set are where they are expected and, if not, says what to do about it."""

import re
from collections.abc import Sequence
from pathlib import Path

from peft_vision.core.config import ConfigError

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".rar", ".7z", ".001")
_NAMED = 3  # missing files named in a message


def require(root: Path, wanted: Sequence[str], *, what: str, site: str) -> None:
    """Raise ConfigError unless all of `wanted` exist below `root`: files or folders, where * in a name matches
    anything. `what`: the data set; `site`: where it can be fetched."""
    if root.is_file():
        raise ConfigError(f"data.root: {root} is a file; unpack it, and give the folder that holds data sets")
    missing = [path for path in wanted if not _found(root, path)]
    if not missing:
        return
    if root.is_dir():
        found = f"{root} lacks {len(missing)} of {len(wanted)} parts of {what}: {_first(missing)}"
    else:
        found = f"no folder {root}, which should hold {what}: {_first(wanted)}"
    archive = _archive(root, missing, what)
    remedy = f"unpack {archive}, if that is it, to {root / missing[0]}" if archive else f"{what} is at {site}"
    raise ConfigError(f"data.root: {found}\n{remedy}")


def home(root: Path, *names: str) -> Path:
    """Return the folder of a data set that may have its own sub-folder: the first of `names` in `root` that exists, or
    `root`."""
    return next((root / name for name in names if (root / name).is_dir()), root)


def _found(root: Path, path: str) -> bool:
    return any(root.glob(path)) if "*" in path else (root / path).exists()


def _archive(root: Path, missing: Sequence[str], what: str) -> Path | None:
    """Return an archive next to what is missing that, by its name, might contain it."""
    folders = sorted({folder for path in missing for folder in (root / path).parents if folder.is_relative_to(root)})
    words = [word for name in [what, *missing] for part in name.split("/") if len(word := _letters(part)) > 3]
    return next(
        (
            file
            for folder in folders
            if folder.is_dir()
            for file in sorted(folder.iterdir())
            if file.name.lower().endswith(_ARCHIVES) and any(word in _letters(file.name) for word in words)
        ),
        None,
    )


def _letters(name: str) -> str:
    """Return the letters and digits only, so that caltech-101.zip matches Caltech101."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if names[_NAMED:] else "")
