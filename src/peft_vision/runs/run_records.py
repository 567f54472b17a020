"""This module defines the records in a run's folder, each of which is written, checked and read as one class:
result.json as a `Result`, ood.json as `ShiftScores`, choice.json as a `Choice`, failed.json as a `FailureRecord`."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, WrapValidator, model_validator

from peft_vision.core.records import (
    Count,
    Finite,
    Model,
    Name,
    Record,
    Seed,
    Unreadable,
    exists,
    read_json,
    unsealed,
    validated,
)
from peft_vision.objective.base import ACCURACY, Merit, Metric, ranked

ID_SPLITS = ("val", "test")
_COMPARED = ("method", "backbone", "data")
FRACTIONS = ("accuracy", "accuracy_top5", "accuracy_per_class", "calibration_error")
ALL_FRACTIONS = (
    *FRACTIONS,
    *("mean_average_precision", "auroc", "f1_micro", "f1_macro"),
    *("mean_iou", "mean_accuracy", "pixel_accuracy"),
)
_OTHERS_CHOOSE = ("mean_average_precision", "mean_iou", "r2", "spearman", "mae", "rmse")
_REMEDY = "it is of another version, or edited: mend it, or delete it to do its work again"


def _as_written(value: Any, check: Any) -> Any:
    """Return the checked value itself, so that a whole number that stands for a float is written as one again."""
    check(value)
    return value


def _with_choices(choices: dict[str, Any]) -> dict[str, Any]:
    for group in _COMPARED:
        if not isinstance(choices.get(group), str):
            raise ValueError(f"{group} should be the name of an option")
    return choices


_Short = Annotated[str, StringConstraints(max_length=200)]
_Costs = Annotated[float, Field(ge=0, le=1e15), WrapValidator(_as_written)]
_Positive = Annotated[int, Field(ge=1, le=2**53)]
_MOST_SHIFTS = 2000  # of a run
_Metrics = Annotated[dict[_Short, Annotated[float, WrapValidator(_as_written)]], Field(max_length=5000)]


class DataFacts(Record):
    """The facts about a run's images. `images`: their number by split; `twins`: how many pictures of a split are in
    another too, by pair of splits, None in results of version 0.1.0."""

    source: str
    group: _Short | None = None
    provenance: dict[Name, Any] = Field(default_factory=dict)
    fingerprint: Name
    images: dict[Name, _Positive]
    classes: Count = 0
    corrupt_images_skipped: Count
    twins: Annotated[dict[_Short, Count], Field(max_length=9)] | None = None


class BackboneFacts(Record, extra="allow"):
    """The name of a backbone's weights, and whatever else the adapter file says of them."""

    name: Name


class ParameterFacts(Record):
    """The numbers of parameters: trained ones of the method and the head, and all of the backbone."""

    method: Count
    head: Count
    backbone: _Positive


class QuantizedFacts(Record):
    """The frozen matrices that were held in few bits: their bits, how many matrices and numbers there are, and the
    bytes that these take with what scales them."""

    bits: _Positive
    matrices: _Positive
    numbers: _Positive
    num_bytes: _Positive


class StoredSplit(Record):
    """The outcome of one split in the feature store, in the fields of its `SplitCacheStatus`."""

    key: Name | None = None
    reason: str | None = None
    found: Sequence[Any] = ()
    computed: bool | Sequence[Any]
    num_bytes: Count = 0
    bytes_in_memory: Count = 0
    seconds: _Costs


class StoreUse(Record):
    """The use that a run made of the feature store; `peak_mib`: the memory that filling it took, in MiB."""

    splits: dict[Name, StoredSplit]
    peak_mib: _Costs | None = None


class OptimizerFootprint(Record):
    """The memory of an optimizer in bytes, and what it did besides stepping."""

    state_bytes: _Costs
    gradient_bytes: _Costs
    refreshes: Count = 0
    refresh_seconds: _Costs = 0.0
    skipped_gradients: Count = 0


class SolverSelection(Record):
    """The settings that the solver of one phase, in config group `group`, tried within the run."""

    group: _Short
    chosen: Annotated[dict[_Short, Annotated[Finite, WrapValidator(_as_written)]], Field(max_length=20)]
    settings: _Positive
    rule: str
    tried: Annotated[list[_Metrics], Field(min_length=1, max_length=10_000)]

    @model_validator(mode="after")
    def _whole(self) -> "SolverSelection":
        for key in (*self.chosen, "val/accuracy"):
            if not all(key in row for row in self.tried) and (key in self.chosen or self.settings > 1):
                raise ValueError(f"a setting that was tried without {key}")
        return self


class ChosenBy(Record):
    """The metric by which everything is chosen, in the fields of a `Metric`."""

    name: _Short
    higher_is_better: bool
    is_fraction: bool


class Result(Record):
    """The content of result.json, in the order in which it is written. Fields with a default are missing in results of
    early versions. `choices`: the option chosen in each config group; `features`: how many the head reads;
    `checkpoint`: the checksum of the user's own weights file; `test_reads`: how often the test images were scored;
    `kept_rule`: the rule in words by which the epochs in `kept_epochs` were chosen, None where there are none, and in
    results of versions that took the first of equal accuracies; `peak_mib`: None where the system does not report it;
    `metrics_jsonl`: the checksum of metrics.jsonl; `chosen_by`: None for accuracy; `predictions`: the checksum of
    predictions.parquet, None for a run that kept none; `quantized`: None where frozen matrices were as loaded;
    `seeds`: where a grid trained several, each `seed` with the metrics of its model at the chosen setting."""

    name: Name
    identity: Name
    choices: Annotated[dict[Name, Any], AfterValidator(_with_choices)]
    seed: Seed
    data: DataFacts
    backbone: BackboneFacts
    checkpoint: Name | None = None
    preprocessing: dict[Name, Any] = Field(default_factory=dict)
    parameters: ParameterFacts
    features: _Positive
    selection: SolverSelection | None
    kept_epochs: dict[Name, Any] = Field(default_factory=dict)
    kept_rule: _Short | None = None
    metrics: _Metrics
    test_reads: Count = 0
    backbone_images: dict[Name, Count] = Field(default_factory=dict)
    store: StoreUse
    optimizer: OptimizerFootprint | None = None
    inputs: dict[str, Any] | None = None
    images_per_second: _Costs
    peak_mib: _Costs | None
    train_seconds: _Costs | None = None
    wall_seconds: _Costs
    environment: dict[Name, Any]
    config: dict[Name, Any]
    metrics_jsonl: _Short | None = None
    chosen_by: ChosenBy | None = None
    predictions: _Short | None = None
    quantized: QuantizedFacts | None = None
    seeds: Annotated[list[_Metrics], Field(min_length=2, max_length=10_000)] | None = None

    @property
    def metric(self) -> Metric:
        """Return the metric by which this run and others like it are chosen."""
        return ACCURACY if self.chosen_by is None else Metric(**dict(self.chosen_by))

    def rank(self, split: str) -> float | None:
        """Return how good the run is on a split, higher for better; None if that was not scored."""
        return ranked(self.metrics, split, self.metric)

    def merit(self, split: str) -> Merit | None:
        """Return rank and loss of the run on a split, by which it is chosen; None if that was not scored."""
        rank = self.rank(split)
        return None if rank is None else Merit.of(rank, self.metrics.get(f"{split}/loss"))

    def written(self) -> dict[str, Any]:
        """Return the content of the file. The usual metric is not named, nor the rule where no epoch was chosen, nor
        predictions where none are kept, nor the bytes of matrices where none are quantized, nor seeds but several."""
        optional = ("chosen_by", "kept_rule", "predictions", "quantized", "seeds")
        return {key: value for key, value in dict(self).items() if key not in optional or value is not None}

    @classmethod
    def read(cls, folder: Path) -> "Result | None":
        """Return the result in a run's folder, None for a run that is not done. Raise Unreadable if it does not fit, or
        lacks scores."""
        path = folder / "result.json"
        result = read_checked(path, cls)
        try:
            return result and result._scored()
        except ValueError as error:
            raise Unreadable(path.absolute(), f"Value error, {error}", _REMEDY) from error

    def _scored(self) -> "Result":
        for split in ("train", *ID_SPLITS):
            scored = f"{split}/loss" in self.metrics
            if scored and split not in self.data.images:
                raise ValueError(f"data.images: no {split}, of which there are metrics")
            if not scored and (split == "train" or split not in self.data.images):
                continue
            needed = FRACTIONS if self.chosen_by is None else ("loss",)
            missing = [name for name in needed if f"{split}/{name}" not in self.metrics]
            if missing:
                raise ValueError(f"metrics: no {split}/{missing[0]}")
        check_fractions(self.metrics)
        if "data" not in self.config or not isinstance(self.config["data"], dict):
            raise ValueError("config: no data")
        return self


def read_checked(path: Path, kind: type[Model]) -> Model | None:
    """Return the content of a sealed file as a record of this `kind`; None if there is no file. Raise Unreadable if it
    does not fit: files are written whole, so it was edited or truncated, or is of another version."""
    if not exists(path):
        return None
    values = unsealed(read_json(path.absolute(), remedy=_REMEDY), path)
    return validated(values, path.absolute(), kind, remedy=_REMEDY)


class ScoredSplit(Record, extra="allow"):
    """The scores of each model on a split or a shift, in the order in which they are written; what is of shifts alone
    has a default. `mark`, `kind`: see `shift.marks.marks_of`; `shifts`: the number of those of its set; `reads`: how
    often scoring it has begun."""

    mark: Name
    kind: Name | None = None
    shifts: _Positive | None = None
    images: _Positive
    fingerprint: _Short | None = None
    corrupt_images_skipped: Count = 0
    missing_classes: list[str] = Field(default_factory=list)
    missing_are_predictable: bool = True
    dropped_classes: list[str] = Field(default_factory=list)
    reads: Count
    scores: dict[Name, _Metrics]

    @model_validator(mode="after")
    def _scored(self) -> "ScoredSplit":
        for model, metrics in self.scores.items():
            if not metrics.keys() & {"accuracy", *_OTHERS_CHOOSE}:
                raise ValueError(f"scores.{model}: no accuracy")
            check_fractions(metrics)
        return self


class InterpolationRecord(Record):
    """The metrics of the models at each `alpha`, the chosen one, and the rule of the choice in words."""

    rows: Annotated[list[_Metrics], Field(max_length=1000)]
    chosen: Annotated[Finite, WrapValidator(_as_written)]
    rule: str


class ShiftScores(Record, extra="allow"):
    """The content of ood.json: see `shift.scoring`. Until all of `splits` are scored there may be no more, and
    `pictures` are missing in records of version 0.1.0."""

    splits: Annotated[dict[Name, ScoredSplit], Field(max_length=_MOST_SHIFTS)]
    metrics: _Metrics = Field(default_factory=dict)
    images: Annotated[dict[_Short, _Positive], Field(max_length=_MOST_SHIFTS)] = Field(default_factory=dict)
    interpolation: InterpolationRecord | None = None
    pictures: Any = None

    @model_validator(mode="after")
    def _alike(self) -> "ShiftScores":
        shifts = {name: split for name, split in self.splits.items() if name not in ID_SPLITS}
        if bare := [name for name, entry in shifts.items() if entry.shifts is None or entry.fingerprint is None]:
            raise ValueError(f"splits.{bare[0]}: no number of shifts or no fingerprint")
        for model in {model for entry in shifts.values() for model in entry.scores}:
            _check_alike(model, (entry.scores[model] for entry in shifts.values() if model in entry.scores))
        return self


class Choice(Record, extra="allow"):
    """The content of choice.json, which says how a sweep chose a run's setting.

    settings    number of settings tried in the cell, those within a run included
    runs        number of tuning runs of the cell
    rule        the rule of the choice, in words
    selection   the split that decided: validation; or test, as in some papers, which makes the test accuracy dishonest
    validation  mean accuracy, or other metric, of the setting over the tuning seeds, None if the test images decided
    validation_loss  mean loss of the setting likewise; None in records of versions that did not choose by it
    chosen      overrides that distinguish the setting from the others that were tried
    superseded  whether a later tuning that again included all runs in `tuned` chose another setting
    tuned       identities of the tuning runs of this setting
    setting     digest that is equal in runs that differ only by their seed
    """

    settings: _Positive
    runs: Count
    rule: str
    selection: Literal["validation", "test"]
    validation: Annotated[float, WrapValidator(_as_written)] | None
    validation_loss: Annotated[float, WrapValidator(_as_written)] | None = None
    chosen: dict[str, Any]
    superseded: bool
    tuned: list[Name]
    setting: Name

    def written(self) -> dict[str, Any]:
        """Return the content of the file, without a loss where there is none."""
        return {key: value for key, value in self.model_dump().items() if key != "validation_loss" or value is not None}


class FailureRecord(Record):
    """A record of the content of failed.json."""

    error: str


def check_fractions(metrics: Mapping[str, float]) -> None:
    """Raise ValueError for an accuracy or a calibration error that is not a fraction from 0 to 1."""
    for name, value in metrics.items():
        if name.rpartition("/")[2] in ALL_FRACTIONS and not 0 <= value <= 1:  # NaN is not in it
            raise ValueError(f"{name} is {value:g}, should be a fraction from 0 to 1")


def _check_alike(model: str, scores: Iterable[Mapping[str, float]]) -> None:
    """Raise ValueError unless each shift has the same metrics. Those of several labels, numbers and masks depend on
    what occurs among the labels of a shift."""
    if len({frozenset(metrics) for metrics in scores if "accuracy" in metrics}) > 1:
        raise ValueError(f"splits: the shifts have not the same metrics of {model}")
