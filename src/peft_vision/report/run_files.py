"""What the files in a run's folder must hold to be read: result.json, ood.json and choice.json."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PositiveInt, ValidationError

from peft_vision.config import ConfigError


class _Choices(BaseModel, extra="allow"):
    method: str
    backbone: str
    data: str


class _Parameters(BaseModel):
    method: int
    head: int


class _Backbone(BaseModel):
    name: str


class _Images(BaseModel, extra="allow"):
    test: PositiveInt


class _Data(BaseModel):
    source: str
    images: _Images
    group: str | None = None


class _TuningImages(BaseModel, extra="allow"):
    test: PositiveInt | None = None


class _TuningData(_Data):
    images: _TuningImages


class _Footprint(BaseModel):
    state_bytes: float
    gradient_bytes: float


class _Environment(BaseModel):
    version: str = Field("", alias="peft-vision")
    git_commit: str | None = None


class Result(BaseModel):
    choices: _Choices
    seed: int
    config: dict[str, Any]
    metrics: dict[str, float]
    parameters: _Parameters
    backbone: _Backbone
    data: _Data
    optimizer: _Footprint | None = None
    peak_mib: float | None = None
    train_seconds: float | None = None
    test_reads: int = 0
    environment: _Environment = _Environment()

    def costs(self) -> dict[str, float]:
        """What it says of them, as cost/<what>."""
        optimizer = self.optimizer
        found = {
            "state_mib": None if optimizer is None else optimizer.state_bytes / 2**20,
            "gradient_mib": None if optimizer is None else optimizer.gradient_bytes / 2**20,
            "peak_mib": self.peak_mib,
            "train_seconds": self.train_seconds,
        }
        return {f"cost/{name}": value for name, value in found.items() if value is not None}


class TuningResult(Result):
    """Of a run that may have no test images."""

    data: _TuningData


class Interpolation(BaseModel):
    rows: list[dict[str, float]]
    chosen: float


class _Split(BaseModel):
    fingerprint: str = ""
    missing_are_predictable: bool = True


class Shifts(BaseModel):
    splits: dict[str, _Split] = {}
    metrics: dict[str, float] = {}
    images: dict[str, PositiveInt] = {}
    interpolation: Interpolation | None = None


class Choice(BaseModel, frozen=True):
    """How a sweep came to a run's setting. `settings`: that it tried; `validation`: what the setting came to;
    `superseded`: whether a better setting has been found since."""

    settings: PositiveInt
    rule: str
    selection: Literal["validation", "test"]
    validation: Annotated[float, Field(ge=0, le=1)] | None
    superseded: bool


def load(path: Path) -> Any:
    """ConfigError for a file that was torn or edited."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path.name}: cannot be read ({error})") from error


def parsed(path: Path, raw: Any, model: type[BaseModel]) -> Any:
    """ConfigError with the first thing that `raw` lacks."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        fault = error.errors()[0]
        where = "".join(f"{part}: " for part in [".".join(map(str, fault["loc"]))] if part)
        raise ConfigError(f"{path.name}: {where}{fault['msg']}") from error
