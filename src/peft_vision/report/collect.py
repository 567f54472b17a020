"""This module collects the finished runs below folders; every other run folder is listed with what is wrong with it."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from peft_vision.core.config import ConfigError
from peft_vision.core.output import one_line
from peft_vision.core.records import exists
from peft_vision.report.attempt import Attempt, attempts
from peft_vision.report.finished import RunRecord, read

SUPERSEDED = "superseded by a better setting"
_SIGNS = ("result.json", "state.pt", "metrics.jsonl", "failed.json")  # files that only a run's folder has


@dataclass(frozen=True)
class LeftOut:
    """A run folder that was found but left out of all figures. `attempt`: what was tried there, for a run without a
    result whose folder shows it."""

    folder: str
    reason: str
    kind: Literal["failed", "unfinished", "unreadable", "twin", "superseded"]
    attempt: Attempt | None


def collect(*folders: Path) -> tuple[list[RunRecord], list[LeftOut]]:
    """Return the finished runs from the run folders in `folders`, or one level below, and the run folders left out.
    ConfigError where there is no finished run."""
    finished: list[RunRecord] = []
    left_out: list[LeftOut] = []
    first: dict[str, str] = {}
    begun: dict[str, Path] = {}
    for name, path in _named(folders).items():
        try:
            run = read(path)
        except ConfigError as error:
            kind = _kind(path)
            begun |= {} if kind == "unreadable" else {name: path}
            left_out.append(LeftOut(name, one_line(str(error).partition("\n")[0]), kind, None))
            continue
        if run.choice is not None and run.choice.superseded:
            left_out.append(LeftOut(name, SUPERSEDED, "superseded", None))
        elif (twin := first.setdefault(_design(run), name)) != name:
            left_out.append(LeftOut(name, f"the same run as {twin}", "twin", None))
        else:
            finished.append(run)
    if not finished:
        example = f"; {left_out[0].folder}: {left_out[0].reason}" if left_out else ""
        raise ConfigError(f"runs: no finished run in {', '.join(str(path.absolute()) for path in folders)}{example}")
    tried = attempts(begun, finished)
    return finished, [replace(run, attempt=tried.get(run.folder)) for run in left_out]


def _kind(path: Path) -> Literal["failed", "unfinished", "unreadable"]:
    """Return why a folder has no readable result: its run failed, is unfinished, or the result cannot be read."""
    if exists(path / "result.json"):
        return "unreadable"
    return "failed" if exists(path / "failed.json") else "unfinished"


def _named(folders: tuple[Path, ...]) -> dict[str, Path]:
    """Return run folders by a unique name: the path below the given folder, or the whole path if several were given. A
    folder given twice counts once; ConfigError for one that does not exist."""
    named: dict[str, Path] = {}
    for folder in {folder.resolve(): folder for folder in folders}.values():
        if not folder.is_dir():
            raise ConfigError(f"runs: no folder {folder.absolute()}")
        for path in _run_folders(folder):
            name = one_line((path if folders[1:] else path.relative_to(folder)).as_posix(), longest=4096)
            while named.get(name, path) != path:  # paths that differ only in unprintable characters
                name += "'"
            named[name] = path
    return named


def _run_folders(folder: Path, levels: int = 2) -> Iterator[Path]:
    """Yield the folders that a run has begun to fill, in the order of their names; none within another."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise ConfigError(f"runs: cannot look into {folder.absolute()}: {error.strerror}") from error
    for path in paths:
        if path.name.startswith(".") or not os.path.isdir(path):
            continue
        if any(exists(path / name) for name in _SIGNS):
            yield path
        elif levels > 1:
            yield from _run_folders(path, levels - 1)


def _design(run: RunRecord) -> str:
    """Return a text that is equal for two copies of the same run."""
    parts = (run.method, run.backbone, run.weights, run.data, run.source, run.seed, run.setting)
    return json.dumps(parts, sort_keys=True, default=str)
