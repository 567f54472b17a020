"""Every phase of a method, one after the other."""

from collections.abc import Callable, Mapping
from typing import Any

from peft_vision.data.images import Source
from peft_vision.distributed import World
from peft_vision.features.source import Observed
from peft_vision.model import Model
from peft_vision.optimizer.base import Optimizer, Solver
from peft_vision.probe import head_input, solve
from peft_vision.schedule import Schedule
from peft_vision.seeding import derive
from peft_vision.trainer import Standing, Trainer


def begin_phases(model: Model, standing: Standing, *, trainer: Trainer, seed: int) -> None:
    """The phases up to the one that `standing` is in, so that `model` has the shape of a state saved there."""
    while model.begun * trainer.epochs < standing.epochs:
        begin_next_phase(model, seed=seed)


def begin_next_phase(model: Model, *, seed: int) -> None:
    """With the initial values of a run of this `seed`."""
    model.begin_next_phase(seed=derive(seed, "initialisation"))


def fit_phases(
    model: Model,
    train: Source,
    val: Source | None,
    *,
    optimizer: Optimizer,
    trainer: Trainer,
    schedule: Schedule,
    seed: int,
    memory_bytes: float,
    workers: int,
    world: World,
    standing: Standing,
    record: Callable[[dict[str, float]], None],
    save: Callable[[Standing], None],
) -> Mapping[str, Any] | None:
    """From where `standing` is to the end; returns how a setting was chosen, where a solver tried several.

    `memory_bytes`: what the features of a phase that trains the head alone may take.
    """
    common = {"schedule": schedule, "seed": seed, "workers": workers, "world": world, "standing": standing}
    if isinstance(optimizer, Solver):
        return solve(model, train, val, solver=optimizer, trainer=trainer, record=record, **common)

    def probed(source: Source | None) -> Source | None:
        """The head's input itself, where all else is frozen: the readout then runs once and not in each epoch."""
        fixed = model.phase.probe and isinstance(source, Observed) and source.views == 1
        if not fixed or len(source) * model.readout.width * 4 > memory_bytes:
            return source
        return head_input(model, source, trainer=trainer, workers=workers, world=world)

    while True:
        unfinished = standing.epochs < model.begun * trainer.epochs
        if unfinished:
            inputs = (probed(train), probed(val))
            trainer.fit(model, *inputs, optimizer=optimizer, record=record, save=save, **common)
        if model.begun == len(model.phases):
            return None
        begin_next_phase(model, seed=seed)
