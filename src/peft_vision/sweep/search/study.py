"""This module keeps a study that outlives the searches that work on it.

The study is a file in `<runs>/.studies`. A search claims a trial by drawing it with its own mark; the mark names a lock
that the system releases when the search ends, however it ends. So another search, or the same command again, knows
which unfinished trials nobody works on any more, and continues them from the saved states of their runs.
"""

import json
import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import optuna
from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from peft_vision.core.config import ConfigError, component
from peft_vision.runs.run import writing
from peft_vision.sweep.search.space import SearchOptions, Space, Untried, pruner, sampler


def open_journal(path: Path) -> JournalStorage:
    """Open the journal at `path`, and create it if there is none. ConfigError if it cannot be written."""
    optuna.logging.set_verbosity(logging.ERROR)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = JournalFileOpenLock(str(path))
        lock.acquire()
        try:
            _mend(path)
        finally:
            lock.release()
        with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
            return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def _mend(path: Path) -> None:
    """Cut off a line that a killed process left unfinished, since anything appended to it would be unreadable."""
    with path.open("ab+") as file:
        file.seek(0)
        text = file.read()
        if not text.endswith(b"\n"):
            file.truncate(text.rfind(b"\n") + 1)
            file.flush()
            os.fsync(file.fileno())


_WORKER = "worker"  # the mark of the search that works on a trial
_LOST = "lost"  # marks a trial that was killed before all its values were drawn: it does not count
_SPACE = "space"


@dataclass(frozen=True)
class Study:
    """A study that several searches may work on. `mark`: the mark of this process."""

    folder: Path
    name: str
    space: Space
    options: SearchOptions
    mark: str

    @property
    def journal(self) -> Path:
        """The study's file."""
        return self.folder / f"{self.name}.log"

    def draw(self, count: int) -> list[FrozenTrial]:
        """Return at most `count` trials for this process to run, first those that other searches left unfinished; none
        when `n_trials` trials, or all settings of the space, are done or running."""
        with FileLock(self.folder / f".{self.name}.lock"):
            study = self._load()
            unfinished = [trial for trial in study.get_trials() if self._is_left(trial)]
            lost = [trial for trial in unfinished if set(trial.params) != set(self.space.swept)]
            for trial in lost:
                study._storage.set_trial_user_attr(trial._trial_id, _LOST, True)
                study.tell(trial.number, state=TrialState.FAIL)
            unfinished = [trial for trial in unfinished if trial not in lost][:count]
            drawn = []
            while len(unfinished) + len(drawn) < count and self._has_more(study):
                drawn.append(study.ask(dict(self.space.swept)))
            for trial in (*unfinished, *drawn):
                study._storage.set_trial_user_attr(trial._trial_id, _WORKER, self.mark)
            numbers = {trial.number for trial in (*unfinished, *drawn)}
            return [trial for trial in study.get_trials() if trial.number in numbers]

    def tell(self, number: int, *, value: float | None, pruned: bool) -> None:
        """Record the outcome of a trial that has none yet: its value; or pruned; or failed, if the value is None or
        NaN."""
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
        """Return all trials but those that were killed before all their values were drawn."""
        return [trial for trial in self._load().get_trials() if _LOST not in trial.user_attrs]

    @property
    def total(self) -> int:
        """The number of trials that the study shall have: `n_trials`, but no more than there are settings."""
        return int(min(self.options.n_trials, self.space.size()))

    def is_exhausted(self) -> bool:
        """Return whether all settings of the space have been drawn."""
        return len(_distinct(self._tried(self._load()))) >= self.space.size()

    def _has_more(self, study: optuna.Study) -> bool:
        tried = self._tried(study)
        return len(tried) < self.options.n_trials and len(_distinct(tried)) < self.space.size()

    def _tried(self, study: optuna.Study) -> list[dict[str, str]]:
        """Return the settings of the trials whose values have all been drawn, written as in their runs' overrides; a
        study of an early version may have some twice."""
        return [
            {key: self.space.written(key, value) for key, value in trial.params.items()}
            for trial in study.get_trials(deepcopy=False)
            if set(trial.params) == set(self.space.swept)
        ]

    def _load(self) -> optuna.Study:
        """Load the study, or create it, with a sampler that avoids settings that were drawn before."""
        study = optuna.create_study(
            study_name=self.name,
            storage=open_journal(self.journal),
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.NopPruner(),
        )
        seed = self.options.sampler_seed + len(study.get_trials(deepcopy=False))
        base_sampler = sampler(self.options.sampler, seed=seed)
        study.sampler = Untried(base_sampler, self.space, seed=seed, tried=lambda: self._tried(study))
        return study

    def _is_left(self, trial: FrozenTrial) -> bool:
        """Return whether a trial is unfinished and no process works on it; the caller holds the study's lock, so that
        nobody draws trials meanwhile."""
        if trial.state.is_finished():
            return False
        mark = trial.user_attrs.get(_WORKER)
        return mark is None or (mark != self.mark and not _is_held(self.folder / f".{mark}.worker"))

    def check(self, record: Mapping[str, Any]) -> None:
        """Raise ConfigError if the study of this name has another config or space; `record` stands for both, and a new
        study keeps it."""
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
    """Yield a mark for this process, and hold a lock of that name by which others know that the process lives."""
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


@component
class TrialPruner:
    """A pruner that reports to a study. `journal`: the study's file; `name`: the pruner's name in SearchOptions;
    `epochs`: the length of a complete run."""

    journal: str
    study: str
    trial: int
    name: str
    startup_trials: int
    warmup_epochs: int
    epochs: int

    def __call__(self, epoch: int, rank: float) -> str | None:
        """Report an epoch's rank (see `Metric`), and return why the run is pruned or None. After a restart no epoch is
        reported twice, and of those reported before only the last is judged again."""
        trial = self._trial()
        if trial.state.is_finished():  # another search took this process for dead and ended it
            return None
        last = -1 if trial.last_step is None else trial.last_step
        if epoch > last:
            self._study._storage.set_trial_intermediate_value(trial._trial_id, epoch, rank)
        if epoch >= last and self._study.pruner.prune(self._study, self._trial()):
            return f"given up after epoch {epoch} of {self.epochs}"
        return None

    @cached_property
    def _study(self) -> optuna.Study:
        rule = pruner(
            self.name, startup_trials=self.startup_trials, warmup_epochs=self.warmup_epochs, epochs=self.epochs
        )
        return optuna.load_study(study_name=self.study, storage=open_journal(Path(self.journal)), pruner=rule)

    def _trial(self) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[self.trial]
