"""Declares the options of a report, besides the folders of runs."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from peft_vision.config import component
from peft_vision.report.robustness import Transform
from peft_vision.report.significance import Over

Format = Literal["png", "svg"]


@component
class Options:
    """`reference`: the methods whose runs make the line of effective robustness; None: all. `rows`: what has rows of
    its own beside the method. `costs`: whether memory and time are columns of the table in and out of distribution.
    `groups`: the data sets of each, in place of what results say; None: as they say. `pictures`: the formats.
    `published`: tables to set measured figures beside, by name or as a user's file. `ties_over`: what the test of a
    mean takes for a sample: the seeds, on these data sets, or the data sets, of others such as these."""

    reference: Annotated[tuple[str, ...], Field(min_length=1)] | None
    transform: Transform
    rows: tuple[str, ...]
    costs: bool
    groups: Mapping[str, Annotated[tuple[str, ...], Field(min_length=1)]] | None
    pictures: tuple[Format, ...]
    published: tuple[str, ...]
    ties_over: Over
