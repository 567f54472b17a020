"""This module compares finished runs in a leaderboard, tables, pictures and a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft_vision.core.config import ConfigError, component
from peft_vision.report.comparison import compare
from peft_vision.report.options import Options
from peft_vision.task.base import Task
from peft_vision.task.train import Train


@component
class Report(Options, Task):
    """A task that reports on the runs in the folder `runs`, or in several folders."""

    def run(self, config: Mapping[str, Any], choices: Mapping[str, str]) -> None:
        folders = _folders(config["runs"])
        out = folders[0] / "report" if config["out"] is None else Path(str(config["out"])).expanduser()
        compare(folders, out, self)


def _folders(runs: Any) -> list[Path]:
    """Return the paths of `runs`, a folder or a list of folders. ConfigError for neither."""
    folders = runs if isinstance(runs, list) else [runs]
    if not folders or None in folders:
        raise ConfigError(f"runs: got {runs!r}, should be a folder or a list of folders")
    return [Path(str(folder)).expanduser() for folder in folders]


NO_TABLE = (
    "task=reproduce: no table to compare with; write experiment=vtab/vpt or another of experiment/vtab and "
    "experiment/fgvc, or hydra.sweeper.report.published=[vpt_vtab]"
)


@component
class Reproduce(Train):
    """A training in a sweep whose report names published tables."""

    def check_sweep(self, published: Sequence[str]) -> None:
        """Raise ConfigError if there is no published table to compare with."""
        if not published:
            raise ConfigError(NO_TABLE)
