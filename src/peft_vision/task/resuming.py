"""This module resumes a run that was stopped from its saved state."""

import math
from collections.abc import Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from peft_vision.core.config import ConfigError
from peft_vision.core.distributed import World
from peft_vision.core.records import Unreadable
from peft_vision.core.tensor_files import Damaged, check_tensors
from peft_vision.data.splits import Splits
from peft_vision.models.adapter import load_tuned, read_adapter
from peft_vision.models.model import Model
from peft_vision.runs.experiment import Experiment
from peft_vision.runs.run import OTHER_VERSION, Run
from peft_vision.training.phases import begin_phases
from peft_vision.training.train_state import TrainState

_SECONDS = ("train_seconds", "stepped_seconds", "wall_seconds")
_COUNTS = ("epochs", "stepped_epochs", "rows", "test_reads")


def origin(model: Model, splits: Splits) -> dict[str, str]:
    """Return the hashes of the backbone and of the data that a run starts from."""
    return {"backbone": model.recipe.backbone["hash"], "data": splits.fingerprint}


def resume(model: Model, splits: Splits, run: Run, experiment: Experiment) -> TrainState:
    """Load the saved state, if there is one, into `model`, in the phase it was saved in. ConfigError if the backbone or
    the data have changed, or another version saved the state; Damaged if the state cannot be resumed from, in which
    case `model` must be discarded."""
    state = run.read_state()
    if state is None:
        return TrainState()
    if not isinstance(state["origin"], Mapping):
        raise Damaged("it does not say what it began with")
    for group, found in origin(model, splits).items():
        if group not in state["origin"]:
            raise ConfigError(f"{run.folder}/state.pt {OTHER_VERSION}")
        if state["origin"][group] != found:
            raise ConfigError(
                f"{group}: no longer what it was when {run.folder} began; restore it, or delete that folder"
            )
    train_state = _train_state(state["standing"], run)
    if train_state.epochs > len(model.phases) * experiment.trainer.epochs:
        raise Damaged(f"it is of epoch {train_state.epochs}, which this run does not have")
    begin_phases(model, train_state, trainer=experiment.trainer, seed=experiment.seed)
    check_tensors(state["tuned"], model.tuned_state(), "its tensors")
    if train_state.best is not None:
        check_tensors(train_state.best.get("tuned"), model.tuned_state(), "the tensors of its best epoch")
    for tuned in train_state.of_seeds.values():
        check_tensors(tuned, model.tuned_state(), "the tensors of another seed")
    _check_probe(train_state, run)
    load_tuned(model, state["tuned"])
    return train_state


def _train_state(values: Mapping[str, Any], run: Run) -> TrainState:
    """Build the state of training from saved values. Damaged for a value of a wrong type or an impossible one;
    ConfigError for names of another version."""
    types = get_type_hints(TrainState)
    if {*values} - types.keys():
        raise ConfigError(f"{run.folder}/state.pt {OTHER_VERSION}")
    for name, value in values.items():
        try:
            TypeAdapter(types[name]).validate_python(value, strict=True)
        except ValidationError as error:
            raise Damaged(f"its {name}: {error.errors()[0]['msg']}") from error
    train_state = TrainState(**values)
    counts = [getattr(train_state, name) for name in _COUNTS]
    seconds = [getattr(train_state, name) for name in _SECONDS]
    if min(counts) < 0 or not all(0 <= value < math.inf for value in seconds):  # false for NaN too
        raise Damaged("its counts are none")
    return train_state


def _check_probe(train_state: TrainState, run: Run) -> None:
    """Raise Damaged if the probe that a finished phase saved cannot be read."""
    if train_state.probe:
        try:
            read_adapter(run.probe)
        except (OSError, ValueError, Unreadable) as error:
            raise Damaged(f"the {run.probe.name} beside it cannot be read") from error


def resumed(model: Model, splits: Splits, run: Run, experiment: Experiment, here: World) -> TrainState:
    """Resume the run in every process; raise Damaged in all of them if any finds the state damaged."""
    try:
        train_state, damage = resume(model, splits, run, experiment), None
    except Damaged as error:
        train_state, damage = TrainState(), str(error)
    found = [each for each in here.gather(damage) if each is not None]
    if found:
        raise Damaged(found[0])
    return train_state
