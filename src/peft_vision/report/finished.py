"""A finished run, as the files in its folder tell it: result.json, and ood.json where it was scored out of
distribution."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, PositiveInt, ValidationError

from peft_vision.config import ConfigError, lasting, locate
from peft_vision.experiment import KINDS, LATER
from peft_vision.run import Run

OVER_SETS = ("mean", "worst")  # take a set's place in the name of a metric


@dataclass(frozen=True)
class Finished:
    """`setting`: what in its config can change a result, but for the seed, by dotted key. `source`: its images, in
    words; `weights`: the backbone's, by name; `choices`: the option of each config group. `images`: how many, by split,
    and as ood/<set> or ood/<set>/<shift>; `marks`: of such a shift, equal where accuracies are of the same images and
    classes. `curve`: metrics along the interpolation, by alpha; `alpha`: the chosen one, None without an interpolation.
    """

    folder: Path
    method: str
    backbone: str
    data: str
    seed: int
    setting: Mapping[str, Any]
    source: str
    weights: str
    choices: Mapping[str, str]
    metrics: Mapping[str, float]
    images: Mapping[str, int]
    marks: Mapping[str, str]
    parameters: Mapping[str, int]
    curve: Mapping[float, Mapping[str, float]]
    alpha: float | None


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


class _Footprint(BaseModel):
    state_bytes: float
    gradient_bytes: float


class _Result(BaseModel):
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


class _Interpolation(BaseModel):
    rows: list[dict[str, float]]
    chosen: float


class _Split(BaseModel):
    fingerprint: str = ""
    missing_are_predictable: bool = True


class _Shifts(BaseModel):
    splits: dict[str, _Split] = {}
    metrics: dict[str, float] = {}
    images: dict[str, PositiveInt] = {}
    interpolation: _Interpolation | None = None


def read(folder: Path) -> Finished:
    """ConfigError with the reason why it is no finished run of this tool."""
    if not (folder / "result.json").exists():
        failure = Run(folder).read_failure()
        raise ConfigError("not finished" if failure is None else f"failed: {failure.splitlines()[0]}")
    result: _Result = _parsed(folder / "result.json", _Result)
    shifts = _parsed(folder / "ood.json", _Shifts) if (folder / "ood.json").exists() else _Shifts()
    metrics = {**result.metrics, **shifts.metrics, **result.costs()}
    if "test/accuracy" not in metrics:
        raise ConfigError("result.json: metrics: no test/accuracy")
    _check_sets(shifts)
    curve = _curve(shifts.interpolation) if shifts.interpolation else {}
    for measured in (metrics, *curve.values()):
        _check_accuracies(measured)
    return Finished(
        folder=folder,
        method=result.choices.method,
        backbone=result.choices.backbone,
        data=result.choices.data,
        seed=result.seed,
        setting=_setting(result.config),
        source=result.data.source,
        weights=result.backbone.name,
        choices=result.choices.model_dump(),
        metrics=metrics,
        images={
            **result.data.images.model_dump(),
            **{f"ood/{shift}": count for shift, count in shifts.images.items()},
        },
        marks={f"ood/{name}": split.model_dump_json() for name, split in shifts.splits.items()},
        parameters=result.parameters.model_dump(),
        curve=curve,
        alpha=shifts.interpolation.chosen if shifts.interpolation else None,
    )


def _parsed(path: Path, model: type[BaseModel]) -> Any:
    try:
        return model.model_validate(json.loads(path.read_text()))
    except ValidationError as error:
        fault = error.errors()[0]
        where = "".join(f"{part}: " for part in [".".join(map(str, fault["loc"]))] if part)
        raise ConfigError(f"{path.name}: {where}{fault['msg']}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path.name}: cannot be read ({error})") from error


def _check_sets(shifts: _Shifts) -> None:
    """Every set that has images has an accuracy, and the other way round."""
    pictured = {shift.split("/")[0] for shift in shifts.images}
    scored = {name.split("/")[1] for name in shifts.metrics if name.startswith("ood/") and name.endswith("/accuracy")}
    if unpictured := sorted(scored - pictured - set(OVER_SETS)):
        raise ConfigError(f"ood.json: images: none of {unpictured[0]}")
    if unscored := sorted(name for name in pictured if f"ood/{name}/accuracy" not in shifts.metrics):
        raise ConfigError(f"ood.json: metrics: no ood/{unscored[0]}/accuracy")


def _curve(interpolation: _Interpolation) -> dict[float, dict[str, float]]:
    if not all("alpha" in row for row in interpolation.rows):
        raise ConfigError("ood.json: interpolation: a row without alpha")
    curve = {
        row["alpha"]: {name: value for name, value in row.items() if name != "alpha"} for row in interpolation.rows
    }
    if interpolation.chosen not in curve:
        raise ConfigError(f"ood.json: interpolation: no row of the chosen alpha, {interpolation.chosen:g}")
    return curve


def _check_accuracies(metrics: Mapping[str, float]) -> None:
    for name, value in metrics.items():
        if name.endswith("/accuracy") and not 0 <= value <= 1:  # NaN is not
            raise ConfigError(f"{name} is {value:g}, should be a fraction from 0 to 1")


def _setting(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's identity is made of, but for the seed, by dotted key."""
    setting: dict[str, Any] = {}
    for group in sorted((KINDS.keys() - LATER) & config.keys()):
        if isinstance(config[group], dict) and "_target_" in config[group]:
            values = dict(config[group])
            target = str(values.pop("_target_"))
            setting |= _flat({"_target_": target, **lasting(locate(target, f"config.{group}"), values)}, f"{group}.")
    return setting


def _flat(node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat
