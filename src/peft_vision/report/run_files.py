"""This module reads the files in a run's folder that a report compares, and checks ood.json and choice.json."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from peft_vision.core.config import ConfigError
from peft_vision.core.output import printable
from peft_vision.core.records import RECORD, Finite, Record, Unreadable, read_json, unsealed, validated

_BOUNDS = replace(RECORD, text=5000)  # characters that a page, a picture or a terminal has room for
_Short = Annotated[str, StringConstraints(max_length=200)]
_Metrics = Annotated[dict[_Short, float], Field(max_length=5000)]
_Some = Annotated[int, Field(ge=1, le=2**53)]
_Shifts = 2000  # of a run, at most


class InterpolationRecord(Record):
    rows: Annotated[list[_Metrics], Field(max_length=1000)]
    chosen: Finite


class ShiftImages(Record):
    fingerprint: _Short = ""
    missing_are_predictable: bool = True


class Shifts(Record):
    splits: Annotated[dict[_Short, ShiftImages], Field(max_length=_Shifts)] = Field(default_factory=dict)
    metrics: _Metrics = Field(default_factory=dict)
    images: Annotated[dict[_Short, _Some], Field(max_length=_Shifts)] = Field(default_factory=dict)
    interpolation: InterpolationRecord | None = None


class Choice(Record):
    """The record of how a sweep chose a run's setting. `settings`: how many it tried; `validation`: the accuracy of the
    chosen one; `superseded`: whether a better setting has been found since."""

    settings: _Some
    rule: str
    selection: Literal["validation", "test"]
    validation: Annotated[float, Field(ge=0, le=1)] | None
    superseded: bool


def load(path: Path) -> Any:
    """Read a JSON file, with text that any page, picture or terminal can show. ConfigError for a file that is damaged
    or edited, or cannot be read as JSON."""
    try:
        return _plain(unsealed(read_json(path, _BOUNDS), path.relative_to(path.parents[1])))
    except Unreadable as error:
        raise ConfigError(f"{path.name}: cannot be read ({error.reason})") from error


def parsed(path: Path, raw: Any, model: type[Record]) -> Any:
    """Validate `raw` as `model`. ConfigError with the first fault."""
    try:
        return validated(raw, path, model)
    except Unreadable as error:
        raise ConfigError(f"{path.name}: {error.reason}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value).replace("\n", " ").replace("\t", " ")
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return {_plain(key): _plain(inner) for key, inner in value.items()} if isinstance(value, dict) else value
