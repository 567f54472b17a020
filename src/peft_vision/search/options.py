"""This module holds the options of a search, and builds Optuna's samplers and pruners from them."""

from typing import Annotated, Literal

import optuna
from pydantic import Field, NonNegativeInt, PositiveInt

from peft_vision.core.config import component


@component
class SearchOptions:
    """The options of a search. `n_trials`: trials in all, those of earlier and of simultaneous searches of the same
    study included. `batch`: trials that are drawn and run together; None: as many as the launcher runs at once.
    `study`: the study's name; None: a name derived from config and space. `startup_trials`: trials before the median
    pruner prunes any; `warmup_epochs`: epochs of each trial before it can be pruned."""

    n_trials: PositiveInt | None
    batch: PositiveInt | None
    study: Annotated[str, Field(pattern=r"^\w[\w.-]*$")] | None
    sampler: Literal["tpe", "random"]
    sampler_seed: NonNegativeInt
    pruner: Literal["none", "median", "hyperband"]
    startup_trials: NonNegativeInt
    warmup_epochs: NonNegativeInt


def sampler(name: str, *, seed: int) -> optuna.samplers.BaseSampler:
    """Return Optuna's sampler of this name."""
    if name == "random":
        return optuna.samplers.RandomSampler(seed)
    return optuna.samplers.TPESampler(seed=seed, constant_liar=True)  # constant liar: running trials count as bad ones


def pruner(name: str, *, startup_trials: int, warmup_epochs: int, epochs: int) -> optuna.pruners.BasePruner:
    """Return Optuna's pruner of this name; `epochs`: the length of a complete trial."""
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=startup_trials, n_warmup_steps=warmup_epochs + 1)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=min(warmup_epochs + 1, epochs), max_resource=epochs)
    return optuna.pruners.NopPruner()
