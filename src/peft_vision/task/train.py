"""This module trains a model and then scores the test set once: the main task."""

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar, Self

from pydantic import PlainValidator

from peft_vision.core.config import ConfigError, build, component
from peft_vision.core.distributed import World, world
from peft_vision.core.tensor_files import Damaged
from peft_vision.runs.experiment import Experiment
from peft_vision.runs.run import Run
from peft_vision.runs.run_records import ID_SPLITS, Result
from peft_vision.runs.served import Served
from peft_vision.shift.scoring import score_shifts
from peft_vision.task.base import Task
from peft_vision.task.mirrored import tell_again
from peft_vision.task.session import Pruner, TrainingSession
from peft_vision.task.shown import are_drawn, print_shifts, print_summary, show_pictures, told

logger = logging.getLogger("peft_vision")


def _built(pruner: Any) -> Pruner | None:
    if pruner is None or callable(pruner):
        return pruner
    if not isinstance(pruner, Mapping):
        raise ConfigError(f"task.pruner: got {pruner!r}, should be null or a component that is called after each epoch")
    return build(pruner, Callable, "task.pruner")


@component
class Train(Task):
    """A task that trains a model and scores the test set. `retry`: whether a run that failed is tried again, from its
    last saved epoch; None: only outside a sweep. `wait`: whether to wait for another process that works on the same
    run, until it ends or dies. `pruner`: a callable, see `Pruner`; None: never give a run up."""

    shares_work: ClassVar[bool] = True
    trains: ClassVar[bool] = True

    retry: bool | None
    wait: bool
    pruner: Annotated[Pruner | None, PlainValidator(_built)]

    def placed(self, *, in_sweep: bool) -> Self:
        """Return the task with `retry` decided."""
        return replace(self, retry=not in_sweep) if self.retry is None else self

    @property
    def retries(self) -> bool:
        """True if a run that failed is tried again even in a sweep."""
        return self.retry is True

    def run(self, config: Mapping[str, Any], choices: Mapping[str, str]) -> float:
        """Train the run unless it is finished; return the metric of its objective on validation, or on test without
        that split."""
        experiment = Experiment.of(config, choices)
        run = experiment.run
        if run.read_result() is None or experiment.ood:
            experiment.check()
        with world(experiment.device) as here, ExitStack() as held:
            if here.is_main:
                held.enter_context(run.locked(wait=self.wait))
            found = (Served().result(experiment), run.read_failure()) if here.is_main else None
            result, failure = here.agree(found)
            if result is None and failure is not None and self.retry is False:
                raise ConfigError(f"failed before: {failure}\ntask.retry=true tries again: {run.folder}")
            if result is None:
                result = _to_the_end(experiment, run, here, pruner=self.pruner)
            elif here.is_main:
                run.forget_way()  # deletes the state that a killed process left
                logger.info("already finished with the same config; showing its result")
                tell_again(experiment, run, result)
            if here.is_main:
                told("the result", partial(print_summary, result, run.folder), run.folder)
            before = run.read_ood()
            shifts = score_shifts(experiment, result, here)
            if shifts is not None and here.is_main:
                told(
                    "the scores out of distribution",
                    partial(print_shifts, shifts, run.folder, result.metric),
                    run.folder,
                )
                if shifts != before or not are_drawn(shifts, run):
                    told("their pictures", partial(show_pictures, experiment, run, shifts), run.folder)
        scores = (f"{split}/{result.metric.name}" for split in ID_SPLITS)
        return next((result.metrics[name] for name in scores if name in result.metrics), math.nan)


def _to_the_end(experiment: Experiment, run: Run, here: World, *, pruner: Pruner | None) -> Result:
    """Train from the saved state, or from the start where there is none or it is damaged, and return the result."""
    try:
        return _train(experiment, run, here, pruner=pruner)
    except Damaged as damage:
        if here.is_main:
            run.set_state_aside(damage)
        here.gather(None)  # no process looks for a state before it is set aside
    return _train(experiment, run, here, pruner=pruner)


def _train(experiment: Experiment, run: Run, here: World, *, pruner: Pruner | None) -> Result:
    """Train in every process and write in the main one. Damaged, before anything is trained, if the saved state is."""
    session = TrainingSession(experiment, run, here, pruner)
    with ExitStack() as held:
        if here.is_main:
            session.open(held)
        session.fit()
        return session.finish()
