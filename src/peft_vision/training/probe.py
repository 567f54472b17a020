"""This module solves for a linear head on features that do not change."""

import copy
from collections.abc import Mapping
from time import monotonic
from typing import Any

import torch
from torch import nn

from peft_vision.core.config import ConfigError
from peft_vision.core.device_memory import needing_memory
from peft_vision.core.distributed import World
from peft_vision.data.images import Source
from peft_vision.features.fill import tabulated
from peft_vision.head.base import Head
from peft_vision.models.model import Model
from peft_vision.models.observations import FeatureTable
from peft_vision.objective.base import ACCURACY, Objective, rule_in_words
from peft_vision.optimizer.base import Fitting, Optimizer, Solver, Stepper
from peft_vision.optimizer.grid import Grid
from peft_vision.training.train_state import Training
from peft_vision.training.trainer import Trainer


def check_head(solver: Solver, head: Head, *, group: str) -> None:
    """Raise ConfigError unless the head is one linear layer on features."""
    if head.reads != "features":
        raise ConfigError(
            f"{group}: {type(solver).__name__} solves for a head on one vector of an image, and {type(head).__name__} "
            f"reads features at each place of it, which steps fit: use {group}=adamw"
        )
    if not head.is_linear:
        raise ConfigError(
            f"{group}: {type(solver).__name__} solves for one linear layer; it takes head=linear head.norm=none "
            f"head.dropout=0, or use {group}=adamw"
        )


def check_objective(solver: Solver, objective: Objective, *, group: str) -> None:
    """Raise ConfigError unless the solver minimises what the objective asks for."""
    if not objective.is_plain:
        raise ConfigError(
            f"{group}: {type(solver).__name__} solves for one class a picture, with equal weights; the objective asks "
            f"for something else, so use {group}=adamw"
        )


def check_linear(model: Model, *, group: str) -> None:
    """Raise ConfigError unless the head of `model` computes what its last linear layer does alone, tried on random
    features, since a solver's solution is valid for such a head only."""
    head, name = copy.deepcopy(model.head), type(model.head).__name__
    linear = next((module for module in reversed([*head.modules()]) if isinstance(module, nn.Linear)), None)
    if linear is None or linear.bias is None:
        raise ConfigError(f"{group}: it solves for a linear layer with a bias, and {name} has none; use {group}=adamw")
    features = torch.randn(4, model.readout.width, generator=torch.Generator().manual_seed(0))
    features = features.to(linear.weight)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        given = [head.train(mode)(features) for mode in (True, False)]
        alone = linear(features) if linear.in_features == features.shape[1] else None
    if alone is None or not all(torch.allclose(logits, alone, rtol=1e-4, atol=1e-5) for logits in given):
        raise ConfigError(
            f"{group}: it solves for one linear layer, and the head computes something else with its own, though its "
            f"is_linear says that it does not; use {group}=adamw, or let is_linear return False"
        )


def check_model(optimizers: Mapping[str, Optimizer], model: Model, *, method: str, has_val: bool) -> None:
    """Raise ConfigError if a solver meets a phase in which more than the head trains, or has no validation images to
    choose by; if a stepper cannot fit what trains; or if the backbone is to drop and never would."""
    check_drops(model, method=method)
    for group, optimizer in optimizers.items():
        if not any(phase.group == group for phase in model.phases):
            continue
        if isinstance(optimizer, Solver):
            _check_phases(optimizer, model, group, method=method, has_val=has_val)
        elif isinstance(optimizer, Stepper):
            optimizer.check(model)


def check_drops(model: Model, *, method: str) -> None:
    """Raise ConfigError if a drop rate of the backbone would act in no phase of the training."""
    if not (options := model.encoder.asked_to_drop):
        return
    if model.encoder.evaluates:
        raise ConfigError(
            f"{options[0]}: above 0, but method.eval_mode=true lets the backbone drop nothing; set one of the two"
        )
    if not model.parameter_counts().method or all(phase.probe for phase in model.phases):
        raise ConfigError(
            f"{options[0]}: above 0, but {method} trains the head alone, on features that are the same in every step; "
            "set it to 0"
        )


def _check_phases(solver: Solver, model: Model, group: str, *, method: str, has_val: bool) -> None:
    together = group == "optimizer" and trains_together(solver, model)
    if group == "optimizer" and not together and (model.parameter_counts().method or len(model.phases) > 1):
        name = type(solver).__name__
        raise ConfigError(f"{group}: {name} solves for a head alone, and {method} trains more; use {group}=adamw")
    if not has_val and solver.num_settings > 1:
        raise ConfigError(
            f"{group}: {solver.num_settings} settings and no validation images to choose by; set data.val_fraction, "
            f"give one setting, or use {group}=adamw"
        )
    if not together:
        check_linear(model, group=group)
        if isinstance(solver, Grid) and solver.seeds:
            raise ConfigError(
                f"{group}.seeds: they are for methods that change the backbone, and here it fits the head of {method}; "
                "write -m seed=0,1,2 in their place, whose runs share the stored features"
            )


def trains_together(optimizer: Optimizer, model: Model) -> bool:
    """Return whether a solver is to fit what a method trains besides the head, which `fit_together` does."""
    return isinstance(optimizer, Solver) and optimizer.fits_methods and bool(model.parameter_counts().method)


def said(optimizers: Mapping[str, Optimizer], model: Model, head: Head, *, augment: str, views: int) -> dict[str, str]:
    """Return a line for each config group that a solver fits, which says what the solver ignores; or one if steps of a
    fixed learning rate train a head alone that a solver could fit, since the rate matters much there."""
    alone = not model.parameter_counts().method and len(model.phases) == 1 and head.is_linear and augment == "none"
    if alone and isinstance(optimizers["optimizer"], Stepper):
        advice = (
            "optimizer=grid chooses among many on validation, in about the same time, and lbfgs solves for the head"
        )
        return {"optimizer": f"one rate and decay for a probe, not tuned; {advice}"}
    optimizer = optimizers["optimizer"]
    if trains_together(optimizer, model):
        several = isinstance(optimizer, Grid) and optimizer.seeds
        seeds = f" with each of {len(optimizer.seeds)} seeds" if several else ""
        return {"optimizer": f"{optimizer.num_settings} settings{seeds} train in the same steps, as each would alone"}
    unseen = augment != "none" and not views
    images = f"; it reads the images as they are, without data.augment={augment}" if unseen else ""
    return {
        group: f"{type(optimizer).__name__} solves for the head; "
        f"of trainer and schedule it heeds {optimizer.heeds} alone{images}"
        for group, optimizer in optimizers.items()
        if isinstance(optimizer, Solver)
    }


def head_input(model: Model, source: Source, *, trainer: Trainer, workers: int, world: World) -> FeatureTable:
    """Return a table of the features that `model`'s head reads of `source`, computed in the precision of `trainer`."""
    return tabulated(
        model,
        source,
        batch_size=trainer.eval_batch_size,
        workers=workers,
        autocast=trainer.autocast(world.device),
        device=world.device,
    )


def solve(
    model: Model, train: Source, val: Source | None, training: Training, *, solver: Solver, trainer: Trainer
) -> Mapping[str, Any]:
    """Solve for the head, put it into `model`, and return how it was chosen; `training.record` gets a row for each
    setting tried.

    Every process solves the same problem.
    """

    world = training.world
    home = torch.device("cpu") if world.device.type == "mps" else world.device  # mps has no float64

    def table(source: Source) -> FeatureTable:
        table = head_input(model, source, trainer=trainer, workers=training.workers, world=world)
        return FeatureTable(table.labels.to(home), table.features.to(home))

    train_table, val_table = table(train), None if val is None else table(val)
    fitting = Fitting(
        epochs=trainer.epochs,
        batch_size=trainer.batch_size,
        label_smoothing=trainer.label_smoothing,
        schedule=training.schedule,
        seed=training.seed,
    )
    started = monotonic()
    linear = next(module for module in model.head.modules() if isinstance(module, nn.Linear))
    settings = f"{solver.num_settings} settings of a head at once"
    with needing_memory(settings, home, f"set fewer values in {model.phase.group}, or device=cpu"):
        solution = solver.solve(copy.deepcopy(linear).to(home), train_table, val_table, fitting)
    with torch.no_grad():
        linear.weight.copy_(solution.weight)
        linear.bias.copy_(solution.bias)
    training.state.train_seconds += monotonic() - started
    phase = {"phase": model.phase.name} if len(model.phases) > 1 else {}
    for number, row in enumerate(solution.tried):
        training.record({"epoch": number + 1, **row, **phase})  # one line for each setting
    rule = rule_in_words(ACCURACY, "first") if val is not None else "the only one"
    return {
        "group": model.phase.group,
        "chosen": solution.chosen,
        "settings": len(solution.tried),
        "rule": rule,
        "tried": solution.tried,
    }
