"""This module decides a tuning: it chooses the setting that wins in each cell.

A cell is a method on a backbone and on the same images, divided in the same way, since accuracies on other images do
not compare. Its settings compete by the rule of `report.choose`. Of the settings that a solver tried within one run,
the one with the highest mean accuracy over the tuning seeds is kept, of equal ones the lowest mean loss, then the
first."""

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from math import isinf
from typing import Any, ClassVar, Literal

from peft_vision.core.config import build
from peft_vision.core.identity import digest
from peft_vision.costs.expected import Expected, evenly
from peft_vision.objective.base import ACCURACY, Merit, Metric
from peft_vision.optimizer.base import Optimizer, Solver, merit_of_tried
from peft_vision.report.choose import cell, without_split_seeds
from peft_vision.runs.experiment import Experiment
from peft_vision.sweep.point import PointResult

Selection = Literal["validation", "test"]
SHOWN = ("augment", "resize", "crop", "stage")  # keys of data that say how images are used; the rest say which they are


@dataclass(frozen=True)
class TriedSetting:
    """A tuning run in the form that the report's rule takes. `metrics`: the rank of the metric on the split that
    decides, and the loss there, under the names of validation's even where test images decide."""

    ended: PointResult
    seed: int
    setting: Mapping[str, Any]
    metrics: Mapping[str, float]
    choice: None = None
    metric: ClassVar[Metric] = ACCURACY


@dataclass(frozen=True, eq=False)
class Decision:
    """The decision of one cell. `tuned`: all runs of the cell; `chosen`: those of the setting that won, by seed, none
    if all failed. `inner`: overrides for what their solvers chose. `settings`: the number that was tried, those within
    runs included; `merit`: the winner's mean over its seeds, None if all failed."""

    name: str
    tuned: tuple[PointResult, ...]
    chosen: tuple[PointResult, ...]
    inner: tuple[str, ...]
    settings: int
    merit: Merit | None

    @property
    def metric(self) -> Metric:
        """The metric that decided."""
        return self.tuned[0].point.experiment.objective.metric

    @property
    def value(self) -> float | None:
        """The winner's mean of the metric over its seeds, None if all failed."""
        return None if self.merit is None else self.metric.rank(self.merit.rank)

    @property
    def loss(self) -> float | None:
        """The winner's mean loss over its seeds, None if all failed, or if it is unknown."""
        return None if self.merit is None or isinf(self.merit.ease) else -self.merit.ease

    @property
    def values(self) -> dict[str, str]:
        """The values that distinguish the winner from the others of its cell, by key."""
        if not self.chosen:
            return {}
        common = set.intersection(*(set(outcome.point.overrides) for outcome in self.tuned))
        distinct = [word for word in (*self.chosen[0].point.overrides, *self.inner) if word not in common]
        pairs = (word.lstrip("+").split("=", 1) for word in distinct)
        return {key: value for key, value in pairs if key not in ("seed", "task.pruner")}

    @property
    def edges(self) -> list[str]:
        """A message for each of `values` that is the smallest or the largest tried, since better ones may lie
        beyond."""
        found = []
        for key, value in self.values.items():
            tried = sorted(set(map(_number, self._tried(key))), key=lambda number: (number is None, number))
            chosen_number = _number(value.strip("[]"))
            if None not in tried and chosen_number in tried[:1] + tried[-1:] and len(tried) > 2:
                found.append(
                    f"{key}={value} is the {'smallest' if chosen_number == tried[0] else 'largest'} that was tried"
                )
        return found

    def _tried(self, key: str) -> list[str]:
        if any(word.startswith(f"{key}=") for word in self.inner):
            rows = self.chosen[0].result.selection.tried
            return [str(row[key.rpartition(".")[2]]) for row in rows]
        words = [word.lstrip("+").partition("=") for outcome in self.tuned for word in outcome.point.overrides]
        return [value for name, _, value in words if name == key]


def decisions(ended: Sequence[PointResult], selection: Selection) -> list[Decision]:
    """Return a decision for each cell, in the order in which the cells first appear."""
    cells: dict[str, list[PointResult]] = {}
    for key, outcome in zip(cell_keys([outcome.point.experiment for outcome in ended]), ended, strict=True):
        cells.setdefault(key, []).append(outcome)
    names = _names([runs[0].point.experiment for runs in cells.values()])
    return [_decided(name, runs, selection) for name, runs in zip(names, cells.values(), strict=True)]


def cell_keys(experiments: Sequence[Experiment]) -> list[str]:
    """Return a key for each experiment, equal for those of one cell. By the rule of `report.choose`, data.split_seed
    tells no cells apart where it is the seed of each run that could share the cell, as with ${seed}."""
    keys = [_key(experiment, {"split_seed"}) for experiment in experiments]
    own = {key for key, experiment in zip(keys, experiments, strict=True) if not _divides_by_seed(experiment)}
    return [_key(experiment) if key in own else key for key, experiment in zip(keys, experiments, strict=True)]


def _key(experiment: Experiment, left_out: Set[str] = frozenset()) -> str:
    choices = [experiment.choices[group] for group in ("method", "backbone", "data")]
    images = {key: value for key, value in _images(experiment).items() if key not in left_out}
    return json.dumps([*choices, vars(experiment.objective.metric), images], sort_keys=True, default=str)


def _divides_by_seed(experiment: Experiment) -> bool:
    return experiment.setting["data"].get("split_seed") == experiment.seed


def setting(experiment: Experiment) -> str:
    """Return a digest that is equal for runs that differ only by their seed."""
    return digest(experiment.setting)


def _images(experiment: Experiment) -> dict[str, Any]:
    return {key: value for key, value in experiment.setting["data"].items() if key not in SHOWN}


def _decided(name: str, runs: Sequence[PointResult], selection: Selection) -> Decision:
    split = "val" if selection == "validation" else "test"
    tried = [
        TriedSetting(outcome, outcome.point.experiment.seed, _flat(outcome.point.experiment), _metrics(merit))
        for outcome in runs
        if outcome.result is not None and (merit := outcome.result.merit(split)) is not None
    ]
    once = {(run.seed, setting(run.ended.point.experiment)): run for run in tried}  # a run of two points counts once
    winner = cell(name, once.values()).chosen if once else None
    chosen = tuple(run.ended for run in winner.runs) if winner else ()
    inner, merit = _inner(chosen) if selection == "validation" else ((), None)
    return Decision(
        name=name,
        tuned=tuple(runs),
        chosen=chosen,
        inner=inner,
        settings=_count(runs),
        merit=winner.merit if winner and merit is None else merit,
    )


def _metrics(merit: Merit) -> dict[str, float]:
    return {"val/accuracy": merit.rank, **({} if isinf(merit.ease) else {"val/loss": -merit.ease})}


def _inner(chosen: Sequence[PointResult]) -> tuple[tuple[str, ...], Merit | None]:
    """Return the overrides for what the solver of these runs, all of one setting, chose over all of them; and the merit
    of that choice, or None without a solver or if it fitted a first phase, whose accuracy is not the run's."""
    selections = [outcome.result.selection for outcome in chosen]
    if not selections or None in selections:
        return (), None
    group, keys = selections[0].group, list(selections[0].chosen)
    scores: dict[tuple[float, ...], list[Merit]] = {}
    for selection in selections:
        for row in selection.tried:
            scores.setdefault(tuple(row[key] for key in keys), []).append(merit_of_tried(row))
    means = {values: Merit.mean(found) for values, found in scores.items()}
    best = max(means, key=means.__getitem__)  # the first of equal ones
    overrides = tuple(f"{group}.{key}=[{value}]" for key, value in zip(keys, best, strict=True))
    return overrides, means[best] if group == "optimizer" else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _count(runs: Sequence[PointResult]) -> int:
    """Count the settings, those that solvers tried within a run one by one."""
    within: dict[str, int] = {}
    experiments = [outcome.point.experiment for outcome in runs]
    settings = without_split_seeds([(_flat(experiment), experiment.seed) for experiment in experiments])
    for outcome, values in zip(runs, settings, strict=True):
        selection = outcome.result.selection if outcome.result else None
        key = digest(values)
        within[key] = max(within.get(key, 1), selection.settings if selection else 1)
    return sum(within.values())


def _flat(experiment: Experiment) -> dict[str, Any]:
    return {f"{group}.{key}": value for group, values in experiment.setting.items() for key, value in values.items()}


def _names(experiments: Sequence[Experiment]) -> list[str]:
    """Return names such as "lora on digits, vit_micro", each with the data values that distinguish the cell from others
    of the same name."""
    plain = ["{method} on {data}, {backbone}".format(**experiment.choices) for experiment in experiments]
    names = []
    for name, experiment in zip(plain, experiments, strict=True):
        others = [_images(other) for other_name, other in zip(plain, experiments, strict=True) if other_name == name]
        differ = [key for key, value in _images(experiment).items() if any(other.get(key) != value for other in others)]
        names.append(", ".join([name, *(f"data.{key}={_images(experiment)[key]}" for key in differ)]))
    return names


_TRIED = ("C", "lr", "weight_decay")  # keys whose lists a solver chooses from within a run


def by_cell(runs: Iterable[Expected]) -> list[list[Expected]]:
    """Group runs by their cell, in the order in which the cells first appear."""
    cells: dict[str, list[Expected]] = {}
    runs = list(runs)
    for key, run in zip(cell_keys([run.experiment for run in runs]), runs, strict=True):
        cells.setdefault(key, []).append(run)
    return list(cells.values())


def unknown(cell: Sequence[Expected], seeds: Sequence[int]) -> list[Expected]:
    """Return the final runs of a cell whose setting is not chosen yet: for each seed one run, spread evenly over the
    settings that are tuned."""
    return [run for seed in seeds for run in evenly([as_final(tuned.experiment, seed) for tuned in cell], 1.0)]


def as_final(tuning: Experiment, seed: int) -> Experiment:
    """Return the final run of this setting, with the first value of each list that a solver chooses from."""
    config = {**tuning.config, "data": {**tuning.config["data"], "stage": "final"}, "seed": seed}
    for group, optimizer in tuning.optimizers.items():
        if isinstance(optimizer, Solver):
            config[group] = {key: value[:1] if key in _TRIED else value for key, value in config[group].items()}
            config[group] |= {"seeds": None} if "seeds" in config[group] else {}
    fitting = {group: build(config[group], Optimizer, group) for group in tuning.optimizers}
    return replace(tuning, data=replace(tuning.data, stage="final"), seed=seed, config=config, **fitting)
