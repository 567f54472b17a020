"""The finished runs below a folder; whatever else lies there as a run's folder is named, with what is wrong with it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from peft_vision.config import ConfigError
from peft_vision.report.finished import Finished, read

_SIGNS = ("result.json", "state.pt", "metrics.jsonl")  # files that only a run's folder has


@dataclass(frozen=True)
class LeftOut:
    """A run's folder, below the one that was asked for, that no figure comes from."""

    folder: str
    reason: str


def collect(folder: Path) -> tuple[list[Finished], list[LeftOut]]:
    """Of run folders in `folder`, or in folders in there. ConfigError where there is no finished run."""
    if not folder.is_dir():
        raise ConfigError(f"runs: no folder {folder.absolute()}")
    finished: list[Finished] = []
    left_out: list[LeftOut] = []
    first: dict[str, str] = {}
    for path in _run_folders(folder):
        name = path.relative_to(folder).as_posix()
        try:
            run = read(path)
            twin = first.setdefault(_design(run), name)
            if twin != name:
                raise ConfigError(f"the same run as {twin}")
        except ConfigError as error:
            left_out.append(LeftOut(name, str(error)))
        else:
            finished.append(run)
    if not finished:
        example = f"; {left_out[0].folder}: {left_out[0].reason}" if left_out else ""
        raise ConfigError(f"runs: no finished run in {folder.absolute()}{example}")
    return finished, left_out


def _run_folders(folder: Path, levels: int = 2) -> Iterator[Path]:
    """Folders that a run has begun to fill, by name; none within another."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_dir():
            continue
        if any((path / name).exists() for name in _SIGNS):
            yield path
        elif levels > 1:
            yield from _run_folders(path, levels - 1)


def _design(run: Finished) -> str:
    """Equal for two runs that are one."""
    parts = (run.method, run.backbone, run.weights, run.data, run.source, run.seed, run.setting)
    return json.dumps(parts, sort_keys=True, default=str)
