"""This module checks the files in a run's folder from which a later command continues: result.json, ood.json,
choice.json and failed.json. A report requires less, and leaves out what it cannot use: `report.run_files`."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from peft_vision.core.records import Count, Finite, Name, Record, Seed

ID_SPLITS = ("val", "test")
_FRACTIONS = ("accuracy", "accuracy_top5", "accuracy_per_class", "calibration_error")
_Costs = Annotated[float, Field(ge=0, le=1e15)]
_Positive = Annotated[int, Field(ge=1, le=2**53)]


class _Choices(Record):
    method: Name
    backbone: Name
    data: Name


class _Data(Record):
    images: dict[Name, _Positive]
    fingerprint: Name
    corrupt_images_skipped: Count
    twins: dict[Name, Count] | None = None


class _Parameters(Record):
    method: Count
    head: Count
    backbone: _Positive


class _Held(Record):
    computed: bool | list[Any]
    seconds: _Costs


class _Store(Record):
    splits: dict[Name, _Held]


class _Footprint(Record):
    state_bytes: _Costs
    gradient_bytes: _Costs
    refreshes: Count
    refresh_seconds: _Costs
    skipped_gradients: Count


class _Selection(Record):
    settings: _Positive
    rule: str
    group: Name
    chosen: dict[Name, Finite]
    tried: Annotated[list[dict[Name, float]], Field(min_length=1)]

    @model_validator(mode="after")
    def _whole(self) -> "_Selection":
        for key in (*self.chosen, "val/accuracy"):
            if not all(key in row for row in self.tried) and (key in self.chosen or self.settings > 1):
                raise ValueError(f"a setting that was tried without {key}")
        return self


class ResultRecord(Record):
    """A record of the content of result.json."""

    identity: Name
    choices: _Choices
    seed: Seed
    data: _Data
    metrics: dict[Name, float]
    parameters: _Parameters
    features: _Positive
    selection: _Selection | None
    store: _Store
    optimizer: _Footprint | None = None
    images_per_second: _Costs
    peak_mib: _Costs | None  # None where the system does not report it
    wall_seconds: _Costs
    environment: dict[Name, Any]
    config: dict[Name, Any]

    @model_validator(mode="after")
    def _scored(self) -> "ResultRecord":
        for split in ("train", *ID_SPLITS):
            scored = f"{split}/accuracy" in self.metrics
            if scored and split not in self.data.images:
                raise ValueError(f"data.images: no {split}, of which there are metrics")
            if not scored and (split == "train" or split not in self.data.images):
                continue
            missing = [name for name in _FRACTIONS if f"{split}/{name}" not in self.metrics]
            if missing:
                raise ValueError(f"metrics: no {split}/{missing[0]}")
        check_fractions(self.metrics)
        if "data" not in self.config or not isinstance(self.config["data"], dict):
            raise ValueError("config: no data")
        return self


class _Split(Record):
    mark: Name
    images: _Positive
    reads: Count
    fingerprint: Name | None = None
    shifts: _Positive | None = None
    scores: dict[Name, dict[Name, float]]

    @model_validator(mode="after")
    def _scored(self) -> "_Split":
        for model, metrics in self.scores.items():
            if "accuracy" not in metrics:
                raise ValueError(f"scores.{model}: no accuracy")
            check_fractions(metrics)
        return self


class ShiftsRecord(Record):
    """A record of the content of ood.json, whose summary is computed anew from `splits`."""

    splits: dict[Name, _Split]

    @model_validator(mode="after")
    def _alike(self) -> "ShiftsRecord":
        shifts = {name: split for name, split in self.splits.items() if name not in ID_SPLITS}
        if bare := [name for name, entry in shifts.items() if entry.shifts is None or entry.fingerprint is None]:
            raise ValueError(f"splits.{bare[0]}: no number of shifts or no fingerprint")
        for model in {model for entry in shifts.values() for model in entry.scores}:
            _check_alike(model, (entry.scores[model] for entry in shifts.values() if model in entry.scores))
        return self


class ChoiceRecord(Record):
    """A record of the content of choice.json."""

    setting: Name
    superseded: bool
    tuned: list[Name]
    settings: _Positive
    selection: Literal["validation", "test"]


class FailureRecord(Record):
    """A record of the content of failed.json."""

    error: str


def check_fractions(metrics: Mapping[str, float]) -> None:
    """Raise ValueError for an accuracy or a calibration error that is not a fraction from 0 to 1."""
    for name, value in metrics.items():
        if name.rpartition("/")[2] in _FRACTIONS and not 0 <= value <= 1:  # NaN is not in it
            raise ValueError(f"{name} is {value:g}, should be a fraction from 0 to 1")


def _check_alike(model: str, scores: Iterable[Mapping[str, float]]) -> None:
    if len({frozenset(metrics) for metrics in scores}) > 1:
        raise ValueError(f"splits: the shifts have not the same metrics of {model}")
