"""Compare finished runs: a leaderboard, tables, pictures and a page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from peft_vision.config import ConfigError, component
from peft_vision.report.comparison import compare
from peft_vision.report.options import Format, Options
from peft_vision.report.robustness import Transform
from peft_vision.task.base import Task


@component
class Report(Task):
    """`reference`: methods whose runs make the line of effective robustness; None: all. `transform`: of its axes.
    `rows`: what has rows of its own beside the method. `costs`: whether memory and time are columns. `groups`: data
    sets by group, whose means are shown; None: as the runs' data say. `pictures`: formats."""

    reference: Annotated[tuple[str, ...], Field(min_length=1)] | None
    transform: Transform
    rows: tuple[str, ...]
    costs: bool
    groups: Mapping[str, Annotated[tuple[str, ...], Field(min_length=1)]] | None
    pictures: tuple[Format, ...]

    def run(self, config: Mapping[str, Any], choices: Mapping[str, str]) -> None:
        folders = _folders(config["runs"])
        out = folders[0] / "report" if config["out"] is None else Path(str(config["out"])).expanduser()
        options = Options(
            reference=self.reference,
            transform=self.transform,
            rows=self.rows,
            costs=self.costs,
            groups=self.groups,
            pictures=self.pictures,
        )
        compare(folders, out, options)


def _folders(runs: Any) -> list[Path]:
    """`runs`: a folder, or a list of them."""
    folders = runs if isinstance(runs, list) else [runs]
    if not folders or None in folders:
        raise ConfigError(f"runs: got {runs!r}, should be a folder or a list of folders")
    return [Path(str(folder)).expanduser() for folder in folders]
