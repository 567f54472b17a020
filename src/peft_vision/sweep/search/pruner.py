"""This module makes a run the trial of a study: it reports its validation accuracy after each epoch, and the study may
prune it."""

from functools import cached_property
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from peft_vision.core.config import component
from peft_vision.sweep.search.space import pruner
from peft_vision.sweep.search.study import open_journal


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

    def __call__(self, epoch: int, accuracy: float) -> str | None:
        """Report an epoch's accuracy, and return why the run is pruned or None. After a restart no epoch is reported
        twice, and of those reported before only the last is judged again."""
        trial = self._trial()
        if trial.state.is_finished():  # another search took this process for dead and ended it
            return None
        last = -1 if trial.last_step is None else trial.last_step
        if epoch > last:
            self._study._storage.set_trial_intermediate_value(trial._trial_id, epoch, accuracy)
        if epoch >= last and self._study.pruner.prune(self._study, self._trial()):
            return f"given up after epoch {epoch} of {self.epochs}, at {100 * accuracy:.2f} % on validation"
        return None

    @cached_property
    def _study(self) -> optuna.Study:
        rule = pruner(
            self.name, startup_trials=self.startup_trials, warmup_epochs=self.warmup_epochs, epochs=self.epochs
        )
        return optuna.load_study(study_name=self.study, storage=open_journal(Path(self.journal)), pruner=rule)

    def _trial(self) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[self.trial]
