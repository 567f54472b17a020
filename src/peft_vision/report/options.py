"""This module declares the options of a report, other than the folders of runs."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from peft_vision.core.config import component

Format = Literal["png", "svg"]

Transform = Literal["probit", "logit"]
"""The scale on which reference models lie on a line in and out of distribution."""

Over = Literal["seeds", "data_sets"]
"""The sample of a test: the seeds, on these data sets; or the data sets, as a sample of others such as these."""


@component
class Options:
    """The options of a report. `reference`: the methods whose runs define the line of effective robustness; None: all.
    `rows`: keys whose values get separate rows, as methods do. `costs`: whether memory and time are columns of the
    table in and out of distribution. `groups`: the data sets of each group, in place of the groups in results; None: as
    in results. `pictures`: the formats. `published`: tables to compare measured figures with, by name or as a user's
    file. `ties_over`: the sample of the test of a mean: the seeds, on these data sets, or the data sets, as a sample of
    others such as these."""

    reference: Annotated[tuple[str, ...], Field(min_length=1)] | None
    transform: Transform
    rows: tuple[str, ...]
    costs: bool
    groups: Mapping[str, Annotated[tuple[str, ...], Field(min_length=1)]] | None
    pictures: tuple[Format, ...]
    published: tuple[str, ...]
    ties_over: Over
