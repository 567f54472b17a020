"""How a search goes about it: options, and what Optuna makes of them."""

from typing import Annotated, Literal

import optuna
from pydantic import Field, NonNegativeInt, PositiveInt

from peft_vision.config import component


@component
class SearchOptions:
    """`n_trials`: in all, those of earlier and of simultaneous searches of the same study included. `batch`: trials
    that are drawn and run together; None: as many as the launcher runs at once. `study`: its name; None: one that
    stands for config and space. `startup_trials`: whole ones before any is pruned; `warmup_epochs`: of each trial."""

    n_trials: PositiveInt | None
    batch: PositiveInt | None
    study: Annotated[str, Field(pattern=r"^\w[\w.-]*$")] | None
    sampler: Literal["tpe", "random"]
    sampler_seed: NonNegativeInt
    pruner: Literal["none", "median", "hyperband"]
    startup_trials: NonNegativeInt
    warmup_epochs: NonNegativeInt


def sampler(name: str, *, seed: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of one of the names above."""
    if name == "random":
        return optuna.samplers.RandomSampler(seed)
    return optuna.samplers.TPESampler(seed=seed, constant_liar=True)  # the liar: trials at work count as bad ones


def pruner(name: str, *, startup_trials: int, warmup_epochs: int, epochs: int) -> optuna.pruners.BasePruner:
    """Return the pruner of one of the names above; `epochs`: the length of a whole trial."""
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=startup_trials, n_warmup_steps=warmup_epochs + 1)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=min(warmup_epochs + 1, epochs), max_resource=epochs)
    return optuna.pruners.NopPruner()
