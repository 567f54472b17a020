"""This module reads a finished run from the files in its folder: result.json, ood.json where it was scored out of
distribution, and choice.json where a sweep chose its setting."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from peft_vision.core.config import ConfigError, build, hashed_fields, locate
from peft_vision.core.identity import CODE, canonical, class_name, hashed
from peft_vision.core.output import one_line, printable
from peft_vision.core.records import RECORD, Record, Unreadable, exists, read_json, unsealed, validated
from peft_vision.core.trust import check_targets
from peft_vision.objective.base import Metric
from peft_vision.runs.experiment import ADDED, KINDS, LATER
from peft_vision.runs.run import Run
from peft_vision.runs.run_records import (
    ID_SPLITS,
    Choice,
    InterpolationRecord,
    Result,
    ShiftScores,
    SolverSelection,
    check_fractions,
)

_SAME = {"fingerprint", "missing_are_predictable"}  # fields of a shift, equal where accuracies are of the same images
OVER_SETS = ("mean", "worst")  # stand in place of a set's name in a metric
TUNE = "tune"  # data.stage of runs that only compare settings, without test images
_BOUNDS = replace(RECORD, text=5000)  # characters that a page, a picture or a terminal has room for
_LARGEST = 1e30  # largest score, so that sums and squares are finite too


@dataclass(frozen=True)
class Origin:
    """The version and commit (empty from a wheel) of the tool that made a run, and the day its result was written."""

    version: str
    commit: str
    day: date


@dataclass(frozen=True)
class RunRecord:
    """A finished run. `setting`: the config values that can change a result, except the seed, by dotted key. `source`:
    its images, in words; `group`: its group of data sets, or empty; `weights`: the name of the backbone's weights;
    `choices`: the option of each config group. `metric`: by which it is chosen. `images`: image counts by split, and by
    ood/<set> or ood/<set>/<shift>; `marks`: a text for each such shift, equal where accuracies are of the same images
    and classes. `solved`: the settings that its solver tried, None without a solver; `within`: how many settings were
    tried in the run, 1 without a solver. `curve`: metrics along the interpolation, by alpha; `alpha`: the chosen one,
    None without an interpolation. `choice`: how a sweep chose the setting. `test_reads`: how often the test images were
    scored, 0 where this was not counted. `twins`: how many pictures of a split are in another too, by pair of splits;
    `skipped`: how many corrupt ones were left out. `rows_checksum`: of metrics.jsonl as the run wrote it, None for runs
    of older versions; `predictions_checksum`: of the predictions it kept, None if it kept none. `of_seeds`: each `seed`
    that a grid trained in it with its metrics, its own among them; empty for one alone."""

    folder: Path
    method: str
    backbone: str
    data: str
    seed: int
    setting: Mapping[str, Any]
    source: str
    group: str
    weights: str
    choices: Mapping[str, str]
    metric: Metric
    metrics: Mapping[str, float]
    images: Mapping[str, int]
    marks: Mapping[str, str]
    solved: SolverSelection | None
    within: int
    parameters: Mapping[str, int]
    curve: Mapping[float, Mapping[str, float]]
    alpha: float | None
    choice: Choice | None
    test_reads: int
    twins: Mapping[str, int]
    skipped: int
    rows_checksum: str | None
    predictions_checksum: str | None
    origin: Origin
    of_seeds: Sequence[Mapping[str, float]] = ()

    @property
    def name(self) -> str:
        """Return the name of the run's folder, safe to display."""
        return one_line(self.folder.name)

    @property
    def tunes(self) -> bool:
        """Return whether the run only helps to choose a setting, and saw no test image."""
        return is_tuning(self.setting)


def is_tuning(setting: Mapping[str, Any]) -> bool:
    return setting.get("data.stage") == TUNE


def read(folder: Path) -> RunRecord:
    """Read a finished run. ConfigError with the reason if the folder does not hold one of this tool."""
    path = folder / "result.json"
    if not exists(path):
        failure = Run(folder).read_failure()
        if failure is None and exists(folder / "adapter.safetensors") and not exists(folder / "state.pt"):
            raise ConfigError("result.json is gone, though the run was finished; its command trains it again")
        raise ConfigError("not finished" if failure is None else f"failed: {one_line(failure.partition(chr(10))[0])}")
    result: Result = parsed(path, load(path), Result)
    shifts: ShiftScores = _optional(folder / "ood.json", ShiftScores) or ShiftScores(splits={})
    metrics = {**result.metrics, **shifts.metrics, **_costs(result)}
    setting = settled(result.config)
    _check_shown(result)
    if "test" not in result.data.images and not is_tuning(setting):
        raise ConfigError("result.json: data.images.test: Field required")
    if f"test/{result.metric.name}" not in metrics and not is_tuning(setting):
        raise ConfigError(f"result.json: metrics: no test/{result.metric.name}")
    _check_sets(shifts, result.metric)
    curve = _curve(shifts.interpolation) if shifts.interpolation else {}
    choice = _choice(folder, result.metric)
    for measured in (metrics, *curve.values(), *(result.seeds or ())):
        _check_scores(measured)
        _check_choosing(measured, result.metric)
    return RunRecord(
        folder=folder,
        method=result.choices["method"],
        backbone=result.choices["backbone"],
        data=result.choices["data"],
        seed=result.seed,
        setting=setting,
        source=result.data.source,
        group=result.data.group or "",
        weights=result.backbone.name,
        choices=result.choices,
        metric=result.metric,
        metrics=metrics,
        images={
            **result.data.images,
            **{f"ood/{shift}": count for shift, count in shifts.images.items()},
        },
        marks={f"ood/{name}": split.model_dump_json(include=_SAME) for name, split in shifts.splits.items()},
        solved=_solved(result.selection),
        within=result.selection.settings if result.selection else 1,
        parameters=dict(result.parameters),
        curve=curve,
        alpha=shifts.interpolation.chosen if shifts.interpolation else None,
        choice=choice,
        test_reads=result.test_reads,
        twins=result.data.twins or {},
        skipped=result.data.corrupt_images_skipped,
        rows_checksum=result.metrics_jsonl,
        predictions_checksum=result.predictions,
        of_seeds=result.seeds or (),
        origin=Origin(
            version=result.environment.get("peft-vision", ""),
            commit=result.environment.get("git_commit") or "",
            day=_day(path),
        ),
    )


def _choice(folder: Path, metric: Metric) -> Choice | None:
    """Return what the validation images chose for the run, if they did, once its scores are found to be possible."""
    choice: Choice | None = _optional(folder / "choice.json", Choice)
    if choice is not None and choice.validation is not None:
        _check_choice(choice.validation, metric)
    if choice is not None and choice.validation_loss is not None:
        _check_scores({"choice.json: validation/loss": choice.validation_loss})
    return choice


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


def _day(path: Path) -> date:
    try:
        return date.fromtimestamp(path.stat().st_mtime)
    except (OSError, ValueError, OverflowError) as error:  # a file system may report any year
        raise ConfigError(f"{path.name}: no day when it was written ({error})") from error


def _check_shown(result: Result) -> None:
    """Raise ConfigError for names that are no text, or longer than a page, a picture or a file name has room for."""
    shown = {f"choices.{group}": (result.choices[group], 1, 100) for group in ("method", "backbone", "data")}
    shown["backbone.name"] = (result.backbone.name, 0, 200)
    shown["environment.peft-vision"] = (result.environment.get("peft-vision", ""), 0, 200)
    shown["environment.git_commit"] = (result.environment.get("git_commit") or "", 0, 200)
    for key, (text, least, most) in shown.items():
        if not isinstance(text, str) or not least <= len(text) <= most:
            raise ConfigError(f"result.json: {key}: should be a text of {least} to {most} characters")


def _costs(result: Result) -> dict[str, float]:
    """Return the costs that the result states, as cost/<name>."""
    optimizer = result.optimizer
    found = {
        "state_mib": None if optimizer is None else optimizer.state_bytes / 2**20,
        "gradient_mib": None if optimizer is None else optimizer.gradient_bytes / 2**20,
        "peak_mib": result.peak_mib,
        "train_seconds": result.train_seconds,
    }
    return {f"cost/{name}": value for name, value in found.items() if value is not None}


def _optional(path: Path, model: type) -> Any:
    """Return the parsed file, or None where there is no such file."""
    return parsed(path, load(path), model) if exists(path) else None


def _check_sets(shifts: ShiftScores, metric: Metric) -> None:
    """Raise ConfigError unless every set that has images has a value of the run's metric, and vice versa."""
    pictured = {shift.split("/")[0] for shift in shifts.images}
    of_metric = [name for name in shifts.metrics if name.startswith("ood/") and name.endswith(f"/{metric.name}")]
    scored = {name.split("/")[1] for name in of_metric}
    if unpictured := sorted(scored - pictured - set(OVER_SETS)):
        raise ConfigError(f"ood.json: images: none of {unpictured[0]}")
    if unscored := sorted(name for name in pictured if f"ood/{name}/{metric.name}" not in shifts.metrics):
        raise ConfigError(f"ood.json: metrics: no ood/{unscored[0]}/{metric.name}")


def _check_choice(validation: float, metric: Metric) -> None:
    if metric.is_fraction and not 0 <= validation <= 1:
        raise ConfigError(f"choice.json: validation is {validation:g}, should be a fraction from 0 to 1")
    if not abs(validation) <= _LARGEST:  # false for NaN too
        raise ConfigError(f"choice.json: validation is {validation:g}, should be a number")


def _curve(interpolation: InterpolationRecord) -> dict[float, dict[str, float]]:
    if not all("alpha" in row for row in interpolation.rows):
        raise ConfigError("ood.json: interpolation: a row without alpha")
    curve = {
        row["alpha"]: {name: value for name, value in row.items() if name != "alpha"} for row in interpolation.rows
    }
    if interpolation.chosen not in curve:
        raise ConfigError(f"ood.json: interpolation: no row of the chosen alpha, {interpolation.chosen:g}")
    return curve


def _solved(selection: SolverSelection | None) -> SolverSelection | None:
    """Return `selection` if its accuracies are those of the run itself, not of an earlier phase; else None."""
    if selection is None or selection.group != "optimizer":
        return None
    for row in selection.tried:
        _check_scores({name: value for name, value in row.items() if name == "val/accuracy"})
    return selection


def _check_scores(metrics: Mapping[str, float]) -> None:
    """Raise ConfigError for a value that no score or cost has."""
    try:
        check_fractions(metrics)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for name, value in metrics.items():
        score = name.rpartition("/")[2]
        too_much = _LARGEST < abs(value) < math.inf or value == -math.inf
        if too_much or (score == "loss" and not math.isfinite(value)):
            raise ConfigError(f"{name} is {value:g}, should be a number")
        if name.startswith("cost/") and not 0 <= value < math.inf:
            raise ConfigError(f"{name} is {value:g}, should be a number, 0 or more")


def _check_choosing(metrics: Mapping[str, float], metric: Metric) -> None:
    """Raise ConfigError unless the metric that chooses is a number where it was measured."""
    for name in (f"{split}/{metric.name}" for split in ID_SPLITS):
        if name in metrics and not math.isfinite(metrics[name]):
            raise ConfigError(f"{name} is {metrics[name]:g}, should be a number")


def settled(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config values, by dotted key, that make up a run's identity, without the seed."""
    setting: dict[str, Any] = {}
    for group in sorted((KINDS.keys() - LATER) & config.keys()):
        if isinstance(config[group], dict) and "_target_" in config[group]:
            check_targets(config[group], f"config.{group}")
            values = _canonical(json.dumps(config[group], default=str), group)
            setting |= {} if group in ADDED and values == ADDED[group] else _flat(values, f"{group}.")
    if CODE in config and isinstance(config[CODE], dict):
        setting |= {f"{CODE}.{one_line(str(name))}": one_line(str(digest)) for name, digest in config[CODE].items()}
    return setting


@cache  # thousands of runs have few different components
def _canonical(node: str, group: str) -> Mapping[str, Any]:
    """Return a component's values as the identity hashes them, or as written where it can no longer be built."""
    values = json.loads(node)
    try:
        return hashed(build(values, KINDS[group], group))
    except ConfigError:
        target = values.pop("_target_")
        cls = locate(target, f"config.{group}")
        if not issubclass(cls, KINDS[group]):
            raise ConfigError(f"config.{group}: {cls.__name__} is not a {KINDS[group].__name__}") from None
        return canonical({"_target_": class_name(cls), **hashed_fields(cls, values)})


def _flat(node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat
