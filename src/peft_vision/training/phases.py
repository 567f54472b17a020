"""This module trains all phases of a method, one after the other."""

from collections.abc import Callable, Mapping

from peft_vision.core.seeding import derive
from peft_vision.data.images import Images, Source
from peft_vision.models.model import Model
from peft_vision.models.observations import Observed
from peft_vision.optimizer.base import Optimizer, Solver
from peft_vision.training.probe import head_input, solve, trains_together
from peft_vision.training.together import fit_together
from peft_vision.training.train_state import Training, TrainState
from peft_vision.training.trainer import Trainer


def begin_phases(model: Model, state: TrainState, *, trainer: Trainer, seed: int) -> None:
    """Begin the phases up to the one that `state` is in, so that `model` has the shape of a state saved there."""
    while model.begun * trainer.epochs < state.epochs:
        begin_next_phase(model, seed=seed)


def begin_next_phase(model: Model, *, seed: int) -> None:
    """Begin the next phase with the initial values of a run of this `seed`."""
    model.begin_next_phase(seed=derive(seed, "initialisation"))


def fit_phases(
    model: Model,
    sources: Callable[[str], Source | None],
    training: Training,
    *,
    optimizers: Mapping[str, Optimizer],
    trainer: Trainer,
    memory_bytes: float,
    score_probe: Callable[[], None],
) -> None:
    """Train `model` from the state of `training` to the end of its last phase.

    `sources` returns what the present phase reads of a split, None if there is no such split; `optimizers` are by
    config group. `memory_bytes`: what the features of a phase that trains the head alone may take. `score_probe` is
    called after the phase that fits the head before everything else.
    """
    state = training.state

    def probed(source: Source | None) -> Source | None:
        """Return the head's input if all else is frozen, so that the readout runs once and not in each epoch."""
        stored = isinstance(source, Observed) and source.views == 1
        # features of a backbone with a method's modules are not stored, since no other run could read them
        from_images = isinstance(source, Images) and source.augment == "none" and model.frozen is None
        if trainer.mixes:  # which is done to pixels
            return source
        alone = model.phase.probe and not model.phase.live_readout and not model.segments  # a grid is read as stored
        fixed = alone and (stored or from_images)
        if not fixed or len(source) * model.readout.width * 4 > memory_bytes:
            return source
        return head_input(model, source, trainer=trainer, workers=training.workers, world=training.world)

    while True:
        optimizer = optimizers[model.phase.group]
        if state.epochs < model.begun * trainer.epochs:
            inputs = (sources("train"), sources("val"))
            if isinstance(optimizer, Solver):
                fit = fit_together if trains_together(optimizer, model) else solve
                state.selection = fit(model, *inputs, training, solver=optimizer, trainer=trainer)
                state.epochs = model.begun * trainer.epochs
                training.save(state)
            else:
                trainer.fit(model, *map(probed, inputs), training, optimizer=optimizer)
        if model.phase.group == "probe" and not state.probe:
            score_probe()
            training.save(state)
        if model.begun == len(model.phases):
            return
        begin_next_phase(model, seed=training.seed)
