"""This module runs a search: a study draws points batch by batch, each as the results before it suggest.

`SweepOfTrials` searches with Optuna: a sweep whose values are drawn as earlier results suggest.
"""

import logging
import shlex
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from statistics import fmean
from typing import Any

from hydra.core.override_parser.types import Override
from optuna.trial import FrozenTrial, TrialState

from peft_vision.core.config import ConfigError, Pruned
from peft_vision.core.identity import digest
from peft_vision.core.output import first_line
from peft_vision.costs.expected import Expected, evenly
from peft_vision.objective.base import ACCURACY, Merit
from peft_vision.runs.experiment import Experiment
from peft_vision.sweep.closing import FailedTrial, NotStarted
from peft_vision.sweep.launch.process_launcher import ProcessLauncher, checked, config_flags
from peft_vision.sweep.overrides import key_of
from peft_vision.sweep.point import Point, PointResult
from peft_vision.sweep.points import PointSweeper
from peft_vision.sweep.search.space import SearchOptions, Space
from peft_vision.sweep.search.study import Study, at_work

logger = logging.getLogger("peft_vision")
_POLL_SECONDS = 1.0  # between two looks at the trials that other searches are running
Trials = dict[int, tuple[FrozenTrial, list[PointResult]]]


@dataclass(frozen=True)
class Search:
    """A search over the points in `space`, which `sweep` runs."""

    sweep: PointSweeper
    space: Space
    options: SearchOptions

    def carry_out(self) -> tuple[Study, Trials]:
        """Run trials until the study has `n_trials`, whichever process runs them, or the limit of failures is reached.
        Return the study, and its trials by number with the outcomes of their runs."""
        options, launcher = self.options, self.sweep.launcher
        _check_pruner(self.space, options)
        self.sweep.prepared(self.space.examples())  # so that a faulty value is reported before the first trial
        name, record = self._study()
        with at_work(self._folder) as mark:
            study = Study(folder=self._folder, name=name, space=self.space, options=options, mark=mark)
            study.check(record)
            batch = options.batch or (launcher.at_once if isinstance(launcher, ProcessLauncher) else None) or 1
            while True:
                if self.sweep.limit.is_reached():
                    return study, self._stopped(study)
                if drawn := study.draw(batch):
                    self._run(study, drawn)
                elif all(trial.state.is_finished() for trial in study.trials()):
                    return study, self._ended(study, study.trials())
                else:  # others are at work; should they die, their trials are drawn again
                    time.sleep(_POLL_SECONDS)

    def foreseen(self) -> tuple[list[Expected], list[PointResult]]:
        """Return the runs that a plan expects, and the outcomes of those that are over. The trials that are left are
        spread evenly over the corners of the space."""
        name, _ = self._study()
        study = Study(folder=self._folder, name=name, space=self.space, options=self.options, mark="")
        over = [trial for trial in study.trials() if trial.state.is_finished()] if study.journal.is_file() else []
        ended = [outcome for _, runs in self._ended(study, over).values() for outcome in runs]
        left = (study.total - len(over)) * max(1, len(self.space.seeds))
        corners = [point.experiment for point, _ in self.sweep.standing(self.space.examples())]
        runs = [Expected(outcome.point.experiment, ended=True) for outcome in ended]
        return [*runs, *(evenly(corners, left) if left > 0 else ())], ended

    @property
    def _folder(self) -> Path:
        return Path(self.sweep.config.runs).expanduser().absolute() / ".studies"

    def _study(self) -> tuple[str, dict[str, Any]]:
        """Return the name of the study, and a record of the space and of the values that the search does not vary."""
        examples = self.space.examples()
        experiment = self._experiment(examples[0])
        record = {"space": self.space.record(), "setting": _without(experiment.setting, self.space.swept)}
        values = {key for key in self.space.swept if "." in key}
        if values < self.space.swept.keys():  # it varies options, whose other values count too
            record["options"] = [digest(_without(self._experiment(each).setting, values)) for each in examples]
        return self.options.study or "-".join([*_names(experiment), digest(record)[:8]]), record

    def _run(self, study: Study, drawn: Sequence[FrozenTrial]) -> None:
        """Run the trials and record their outcomes. A combination of values that is refused is a failed trial; a fault
        that the examples have too, such as images that are gone meanwhile, is raised, and the trials are left."""
        points, names, owners = [], [], []
        for trial in drawn:
            for point in study.space.points(trial.params):
                points.append((*point, *_pruner(study, trial)))
                names.append(f"trial {trial.number + 1}/{study.total}: {self._varied(point)}")
                owners.append(trial.number)
        try:
            before, prepared = self.sweep.prepared(points, names)
        except ConfigError:
            for example in self.space.examples():
                self._experiment(example).check()
            refused = [trial.number for trial in drawn if self._refusal(trial) is not None]
            if not refused:
                raise
            for number in refused:
                study.tell(number, value=None, pruned=False)
            if left := [trial for trial in drawn if trial.number not in refused]:
                self._run(study, left)
            return
        ended = self.sweep.run_prepared(before, prepared, of="the batch")
        for trial in drawn:
            outcomes = [end for end, owner in zip(ended, owners, strict=True) if owner == trial.number]
            if not any(end.is_busy() or isinstance(end.fault, NotStarted) for end in outcomes):
                study.tell(
                    trial.number, value=_value(outcomes), pruned=any(isinstance(end.fault, Pruned) for end in outcomes)
                )

    def _stopped(self, study: Study) -> Trials:
        """Return the trials that are over, and count the runs of all others as not started."""
        over = [trial for trial in study.trials() if trial.state.is_finished()]
        self.sweep.limit.held = (study.total - len(over)) * max(1, len(self.space.seeds))
        return self._ended(study, over)

    def _ended(self, study: Study, trials: Sequence[FrozenTrial]) -> Trials:
        """Return the trials by number with the outcomes of their runs, read from the runs' folders, whichever process
        ran them. Those of values that cannot be combined have none; a line says why."""
        refused = {
            trial.number: why
            for trial in trials
            if trial.state is TrialState.FAIL and (why := self._refusal(trial)) is not None
        }
        for trial in trials:
            if trial.number in refused:
                values = self._varied(self.space.points(trial.params)[0])
                line = f"trial {trial.number + 1}/{study.total}: {values}: {refused[trial.number]}"
                logger.info("%-9s %s", "failed", line)
        runnable = [trial for trial in trials if trial.number not in refused]
        points = [(trial, point) for trial in runnable for point in study.space.points(trial.params)]
        before, prepared = self.sweep.prepared([point for _, point in points])
        found: Trials = {trial.number: (trial, []) for trial in trials}
        for number, (trial, _) in enumerate(points):
            outcome = before[number] if number in before else self._unfinished(prepared[number], trial)
            if outcome.fault is not None and not isinstance(outcome.fault, Pruned):
                outcome = replace(outcome, fault=FailedTrial(str(outcome.fault)))
            found[trial.number][1].append(outcome)
        return found

    def _refusal(self, trial: FrozenTrial) -> str | None:
        """Return why the values of a trial cannot be combined, in a line, or None if they can."""
        try:
            self.sweep.prepared(self.space.points(trial.params))
        except ConfigError as error:
            return first_line(error)
        return None

    def _varied(self, point: Sequence[str]) -> str:
        return " ".join(word for word in point if word not in self.space.fixed)

    def _unfinished(self, point: Point, trial: FrozenTrial) -> PointResult:
        """Return the outcome of a run of a trial that is over, where the run has no result or is to be tried again."""
        if trial.state is TrialState.PRUNED:
            return PointResult(point, None, Pruned("given up"))
        known = replace(point, retry=False).ended_before(self.sweep.served)
        return known or PointResult(point, None, ConfigError("failed before"))

    def _experiment(self, overrides: Sequence[str]) -> Experiment:
        request = self.sweep.composer.request(overrides)
        experiment = Point.of(overrides, "", request).experiment
        if experiment is None:
            raise ConfigError("task: a search trains; write task=train")
        return experiment


def _value(ended: Sequence[PointResult]) -> float | None:
    """Return the mean rank of the validation metric of a trial's runs; None if one failed. ConfigError without
    validation images."""
    if any(outcome.result is None for outcome in ended):
        return None
    found = [outcome.result.rank("val") for outcome in ended]
    if None in found:
        raise ConfigError("data.val_fraction: a search needs validation images to go by")
    return fmean(found)


def _merit(trial: FrozenTrial, ended: Sequence[PointResult]) -> Merit:
    """Return the merit of a whole trial; the loss is unknown where a result of one of its runs is gone."""
    merits = [outcome.result.merit("val") for outcome in ended if outcome.result is not None]
    known = len(merits) == len(ended) > 0 and None not in merits
    return Merit(trial.value, Merit.mean(merits).ease if known else -inf)


def _check_pruner(space: Space, options: SearchOptions) -> None:
    if options.pruner != "none" and len(space.seeds) > 1:
        raise ConfigError(
            f"hydra.sweeper.pruner: {options.pruner} prunes trials of one run, and these are of {len(space.seeds)} "
            "seeds; set hydra.sweeper.pruner=none"
        )


def _pruner(study: Study, trial: FrozenTrial) -> tuple[str, ...]:
    """Return the override that lets the study prune the trial's run; none without a pruner."""
    options = study.options
    if options.pruner == "none":
        return ()
    values = {
        "_target_": "peft_vision.sweep.search.study.TrialPruner",
        "journal": _quoted(str(study.journal)),
        "study": _quoted(study.name),
        "trial": trial.number,
        "name": options.pruner,
        "startup_trials": options.startup_trials,
        "warmup_epochs": options.warmup_epochs,
        "epochs": "${trainer.epochs}",
    }
    return (f"task.pruner={{{','.join(f'{key}:{value}' for key, value in values.items())}}}",)


def _quoted(text: str) -> str:
    """Quote any text for Hydra's override grammar."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _names(experiment: Experiment) -> list[str]:
    return [experiment.choices[group].replace("/", "_") for group in ("method", "backbone", "data")]


def _without(setting: Mapping[str, Mapping[str, Any]], keys: Collection[str]) -> dict[str, Any]:
    """Return the setting without the values that the search varies; a group whose option it varies is left out
    whole."""
    kept = {group: dict(values) for group, values in setting.items() if group not in keys}
    for key in keys:
        group, _, rest = key.lstrip("+").partition(".")
        if group in kept:
            kept[group].pop(rest, None)
    return kept


_STAGE = "data.stage=tune"  # a search looks at validation alone, unless it is told otherwise
_SHOWN = 5  # best trials in the summary


class SweepOfTrials(PointSweeper):
    def __init__(self, params: Any, report: Any, max_failures: int | None = None, **options: Any) -> None:
        super().__init__(params, report, max_failures)
        self.options: SearchOptions = checked(SearchOptions, options, "hydra.sweeper")
        if self.options.n_trials is None:
            raise ConfigError("hydra.sweeper.n_trials: got null, should be how many trials there are to be in all")

    def carry_out(self, overrides: Sequence[Override]) -> list[PointResult]:
        """Search, log the summary, write the report, and return how the trials' runs ended. ConfigError after the end
        if trials failed."""
        study, trials = Search(self, self._space(overrides), self.options).carry_out()
        for line in account(study, trials):
            logger.info("%s", line)
        ended = [outcome for _, runs in trials.values() for outcome in runs]
        self.close([outcome for outcome in ended if not isinstance(outcome.fault, Pruned)])
        return ended

    def foreseen(self, overrides: Sequence[Override]) -> list[Expected]:
        """Return the runs that a plan expects, none of them pruned."""
        runs, _ = Search(self, self._space(overrides), self.options).foreseen()
        return runs

    def _space(self, overrides: Sequence[Override]) -> Space:
        own_stage = any(key_of(override) == "data.stage" for override in overrides)
        return Space.of([*overrides, *([] if own_stage else self.parsed([_STAGE]))])


def account(study: Study, trials: Trials) -> list[str]:
    """Return the lines that sum up the search, with a command that repeats the best trial, of equal ones that of the
    lowest validation loss, then the first."""
    states = [trial.state for trial, _ in trials.values()]
    counts = {"whole": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    counted = ", ".join(f"{states.count(state)} {word}" for word, state in counts.items() if state in states)
    lines = ["", f"study     {study.journal}: {len(trials)} trials, {counted}"]
    if study.is_exhausted():
        lines.append(f"          all of the {study.space.size()} settings that there are")
    whole = {number: _merit(*found) for number, found in trials.items() if found[0].state is TrialState.COMPLETE}
    ranking = sorted(whole, key=lambda number: (-whole[number].rank, -whole[number].ease, number))
    best = [trials[number][0] for number in ranking[:_SHOWN]]
    for trial in best:
        values, word = " ".join(_own(study, trial.params)), "best" if trial is best[0] else ""
        metric = next((end.result.metric for end in trials[trial.number][1] if end.result is not None), ACCURACY)
        value = metric.shown(metric.rank(trial.value))
        lines.append(f"{word:9} val {value}  {values}  (trial {trial.number + 1})")
    if best:
        fixed = [word for word in study.space.fixed if word != _STAGE]
        words = [*fixed, *_own(study, best[0].params), *study.space.seeds[:1]]
        lines.append(f"again     {shlex.join(['peft-vision', *config_flags(), *words])}")
    return lines


def _own(study: Study, params: dict[str, Any]) -> list[str]:
    return [word for word in study.space.points(params)[0] if word not in (*study.space.fixed, *study.space.seeds)]
