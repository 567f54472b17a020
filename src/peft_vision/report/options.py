"""What a report is asked for beside the runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from peft_vision.report.robustness import Transform

Format = Literal["png", "svg"]


@dataclass(frozen=True)
class Options:
    """`reference`: the methods whose runs make the line of effective robustness; None: all. `rows`: what has rows of
    its own beside the method. `costs`: whether memory and time are columns of the table in and out of distribution.
    `groups`: the data sets of each, in place of what results say; None: as they say. `pictures`: the formats."""

    reference: tuple[str, ...] | None
    transform: Transform
    rows: tuple[str, ...]
    costs: bool
    groups: Mapping[str, tuple[str, ...]] | None
    pictures: tuple[Format, ...]
