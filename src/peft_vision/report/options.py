"""Declares the options of a report, besides the folders of runs."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from peft_vision.config import component
from peft_vision.report.robustness import Transform

Format = Literal["png", "svg"]


@component
class Options:
    """`reference`: the methods whose runs make the line of effective robustness; None: all. `rows`: what has rows of
    its own beside the method. `costs`: whether memory and time are columns of the table in and out of distribution.
    `groups`: the data sets of each, in place of what results say; None: as they say. `pictures`: the formats.
    `published`: tables to set measured figures beside, by name or as a user's file."""

    reference: Annotated[tuple[str, ...], Field(min_length=1)] | None
    transform: Transform
    rows: tuple[str, ...]
    costs: bool
    groups: Mapping[str, Annotated[tuple[str, ...], Field(min_length=1)]] | None
    pictures: tuple[Format, ...]
    published: tuple[str, ...]
