"""Compare finished runs in and out of distribution: a table and pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from peft_vision.config import component
from peft_vision.report.comparison import compare
from peft_vision.report.robustness import Transform
from peft_vision.task.base import Task


@component
class Report(Task):
    """`reference`: methods whose runs make the line of effective robustness; None: all. `transform`: of its axes.
    `rows`: what has rows of its own beside the method. `costs`: whether memory and time are columns."""

    reference: Annotated[tuple[str, ...], Field(min_length=1)] | None
    transform: Transform
    rows: tuple[str, ...]
    costs: bool

    def run(self, config: Mapping[str, Any], choices: Mapping[str, str]) -> None:
        folder = Path(str(config["runs"])).expanduser()
        out = folder / "report" if config["out"] is None else Path(str(config["out"])).expanduser()
        compare(folder, out, reference=self.reference, transform=self.transform, rows=self.rows, costs=self.costs)
