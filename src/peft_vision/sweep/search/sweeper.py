"""This module searches with Optuna: a sweep whose values are drawn as earlier results suggest."""

import logging
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override
from optuna.trial import TrialState

from peft_vision.core.config import ConfigError, Pruned
from peft_vision.costs.expected import Expected
from peft_vision.sweep.launch.process_launcher import checked
from peft_vision.sweep.point import PointResult
from peft_vision.sweep.points import PointSweeper
from peft_vision.sweep.search.search import Search, Trials
from peft_vision.sweep.search.space import SearchOptions, Space
from peft_vision.sweep.search.study import Study

logger = logging.getLogger("peft_vision")
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
        own_stage = any(override.get_key_element() == "data.stage" for override in overrides)
        return Space.of([*overrides, *([] if own_stage else self.parsed([_STAGE]))])


def account(study: Study, trials: Trials) -> list[str]:
    """Return the lines that sum up the search, with a command that repeats the best trial, the first of equal ones."""
    states = [trial.state for trial, _ in trials.values()]
    counts = {"whole": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    counted = ", ".join(f"{states.count(state)} {word}" for word, state in counts.items() if state in states)
    lines = ["", f"study     {study.journal}: {len(trials)} trials, {counted}"]
    if study.is_exhausted():
        lines.append(f"          all of the {study.space.size()} settings that there are")
    whole = [trial for trial, _ in trials.values() if trial.state is TrialState.COMPLETE]
    best = sorted(whole, key=lambda trial: (-trial.value, trial.number))[:_SHOWN]
    for trial in best:
        values, word = " ".join(_own(study, trial.params)), "best" if trial is best[0] else ""
        lines.append(f"{word:9} val {100 * trial.value:.2f} %  {values}  (trial {trial.number + 1})")
    if best:
        fixed = [word for word in study.space.fixed if word != _STAGE]
        words = [*fixed, *_own(study, best[0].params), *study.space.seeds[:1]]
        lines.append(f"again     {shlex.join(['peft-vision', *_flags(), *words])}")
    return lines


def _own(study: Study, params: dict[str, Any]) -> list[str]:
    return [word for word in study.space.points(params)[0] if word not in (*study.space.fixed, *study.space.seeds)]


def _flags() -> list[str]:
    given = get_args_parser().parse_known_args(sys.argv[1:])[0]
    return [] if given.config_dir is None else ["--config-dir", given.config_dir]
