"""A study that outlives the searches that work on it.

It is a file in `<runs>/.studies`. A search claims a trial by drawing it with its own mark; the mark is a lock that the
system releases when the search ends, however it ends. So another one, or the same command again, knows which of the
unfinished trials nobody works on any more, and goes on with them: the run's own state says from where.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState

from peft_vision.config import ConfigError
from peft_vision.run import writing
from peft_vision.search.journal import open_journal
from peft_vision.search.options import SearchOptions, sampler
from peft_vision.search.space import Space
from peft_vision.search.untried import Untried

_WORKER = "worker"  # who works on a trial
_LOST = "lost"  # of a trial that was never drawn to its end: it counts as none
_SPACE = "space"


@dataclass(frozen=True)
class Study:
    """`mark`: of this process."""

    folder: Path
    name: str
    space: Space
    options: SearchOptions
    mark: str

    @property
    def journal(self) -> Path:
        """Its file."""
        return self.folder / f"{self.name}.log"

    def draw(self, count: int) -> list[FrozenTrial]:
        """At most `count` trials for this process to run, those first that others left undone; none when n_trials, or
        all settings that there are, are done or at work."""
        with FileLock(self.folder / f".{self.name}.lock"):
            study = self._load()
            mine = [trial for trial in study.get_trials() if self._is_left(trial)]
            lost = [trial for trial in mine if set(trial.params) != set(self.space.swept)]
            for trial in lost:
                study._storage.set_trial_user_attr(trial._trial_id, _LOST, True)
                study.tell(trial.number, state=TrialState.FAIL)
            mine = [trial for trial in mine if trial not in lost][:count]
            drawn = []
            while len(mine) + len(drawn) < count and self._has_more(study):
                drawn.append(study.ask(dict(self.space.swept)))
            for trial in (*mine, *drawn):
                study._storage.set_trial_user_attr(trial._trial_id, _WORKER, self.mark)
            numbers = {trial.number for trial in (*mine, *drawn)}
            return [trial for trial in study.get_trials() if trial.number in numbers]

    def tell(self, number: int, *, value: float | None, pruned: bool) -> None:
        """Record the outcome of a trial: its value; or pruned; or failed, where the value is None or not a number."""
        study = self._load()
        if study.get_trials()[number].state.is_finished():
            return
        if pruned:
            study.tell(number, state=TrialState.PRUNED)
        elif value is None or math.isnan(value):
            study.tell(number, state=TrialState.FAIL)
        else:
            study.tell(number, value)

    def trials(self) -> list[FrozenTrial]:
        """All that count."""
        return [trial for trial in self._load().get_trials() if _LOST not in trial.user_attrs]

    @property
    def total(self) -> int:
        """How many trials there are to be: `n_trials`, but no more than there are settings."""
        return int(min(self.options.n_trials, self.space.size()))

    def is_exhausted(self) -> bool:
        """Return whether all settings of the space have been drawn."""
        return len(_distinct(self._tried(self._load()))) >= self.space.size()

    def _has_more(self, study: optuna.Study) -> bool:
        tried = self._tried(study)
        return len(tried) < self.options.n_trials and len(_distinct(tried)) < self.space.size()

    def _tried(self, study: optuna.Study) -> list[dict[str, str]]:
        """Return the settings of the trials whose values have all been drawn, written as in their runs' overrides;
        versions that repeated settings drew some twice."""
        return [
            {key: self.space.written(key, value) for key, value in trial.params.items()}
            for trial in study.get_trials(deepcopy=False)
            if set(trial.params) == set(self.space.swept)
        ]

    def _load(self) -> optuna.Study:
        """With a sampler that draws what it has not drawn before."""
        study = optuna.create_study(
            study_name=self.name,
            storage=open_journal(self.journal),
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.NopPruner(),
        )
        seed = self.options.sampler_seed + len(study.get_trials(deepcopy=False))
        own = sampler(self.options.sampler, seed=seed)
        study.sampler = Untried(own, self.space, seed=seed, tried=lambda: self._tried(study))
        return study

    def _is_left(self, trial: FrozenTrial) -> bool:
        """Return whether a trial is unfinished and no process works on it; nobody may draw trials meanwhile."""
        if trial.state.is_finished():
            return False
        mark = trial.user_attrs.get(_WORKER)
        return mark is None or (mark != self.mark and not _is_held(self.folder / f".{mark}.worker"))

    def check(self, record: Mapping[str, Any]) -> None:
        """ConfigError where the study of this name is of another config or space; `record` stands for both."""
        with FileLock(self.folder / f".{self.name}.lock"):
            study = self._load()
            text = json.dumps(record, sort_keys=True, default=str)
            known = study.user_attrs
            if _SPACE not in known:
                study.set_user_attr(_SPACE, text)
            elif known[_SPACE] != text:
                raise ConfigError(
                    f"hydra.sweeper.study: {self.name} searches another space, or with another config; take another "
                    f"name, or delete {self.journal}"
                )


def _distinct(settings: list[dict[str, str]]) -> set[tuple[tuple[str, str], ...]]:
    return {tuple(sorted(setting.items())) for setting in settings}


@contextmanager
def at_work(folder: Path) -> Iterator[str]:
    """The mark of this process, by which others know that it lives."""
    mark = uuid4().hex
    lock = FileLock(folder / f".{mark}.worker")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield mark
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def _is_held(path: Path) -> bool:
    if not path.is_file():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    path.unlink(missing_ok=True)
    return False
