"""This module checks the files in a run's folder that a report compares: result.json, ood.json and choice.json."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from peft_vision.core.config import ConfigError
from peft_vision.core.output import printable
from peft_vision.core.records import RECORD, Count, Finite, Record, Seed, Unreadable, read_json, unsealed, validated

_BOUNDS = replace(RECORD, text=5000)  # characters that a page, a picture or a terminal has room for
_Short = Annotated[str, StringConstraints(max_length=200)]
_Option = Annotated[str, StringConstraints(min_length=1, max_length=100)]  # used in the names of pictures
_Metrics = Annotated[dict[_Short, float], Field(max_length=5000)]
_Some = Annotated[int, Field(ge=1, le=2**53)]
_Shifts = 2000  # of a run, at most


class _Choices(Record, extra="allow"):
    method: _Option
    backbone: _Option
    data: _Option


class _Parameters(Record):
    method: Count
    head: Count


class _Backbone(Record):
    name: _Short


class _TestImages(Record, extra="allow"):
    __pydantic_extra__: dict[str, _Some]
    test: _Some


class _Data(Record):
    source: str
    images: _TestImages
    group: _Short | None = None
    twins: Annotated[dict[_Short, Count], Field(max_length=9)] | None = None


class _TuningImages(Record, extra="allow"):
    __pydantic_extra__: dict[str, _Some]
    test: _Some | None = None


class _TuningData(_Data):
    images: _TuningImages


class _Footprint(Record):
    state_bytes: float
    gradient_bytes: float


class _Environment(Record):
    version: _Short = Field("", alias="peft-vision")
    git_commit: _Short | None = None


class Solved(Record):
    """The settings that the solver of one phase, in config group `group`, tried within the run."""

    group: _Short
    chosen: Annotated[dict[_Short, float], Field(max_length=20)]
    tried: Annotated[list[_Metrics], Field(max_length=10_000)]


class Result(Record):
    choices: _Choices
    seed: Seed
    config: dict[str, Any]
    metrics: _Metrics
    parameters: _Parameters
    backbone: _Backbone
    data: _Data
    optimizer: _Footprint | None = None
    selection: Solved | None = None
    peak_mib: float | None = None
    train_seconds: float | None = None
    test_reads: Count = 0
    metrics_jsonl: _Short | None = None
    environment: _Environment = _Environment()

    def costs(self) -> dict[str, float]:
        """Return the costs that the result states, as cost/<name>."""
        optimizer = self.optimizer
        found = {
            "state_mib": None if optimizer is None else optimizer.state_bytes / 2**20,
            "gradient_mib": None if optimizer is None else optimizer.gradient_bytes / 2**20,
            "peak_mib": self.peak_mib,
            "train_seconds": self.train_seconds,
        }
        return {f"cost/{name}": value for name, value in found.items() if value is not None}


class TuningResult(Result):
    """The result of a run that may have no test images."""

    data: _TuningData


class InterpolationRecord(Record):
    rows: Annotated[list[_Metrics], Field(max_length=1000)]
    chosen: Finite


class _Split(Record):
    fingerprint: _Short = ""
    missing_are_predictable: bool = True


class Shifts(Record):
    splits: Annotated[dict[_Short, _Split], Field(max_length=_Shifts)] = Field(default_factory=dict)
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
