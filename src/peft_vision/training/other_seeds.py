"""This module has the models of a grid's other seeds: the values with which their runs would begin, and the scores of
what they ended with."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from peft_vision.core.seeding import derive
from peft_vision.mixing.mixture import sharing
from peft_vision.models.model import Model
from peft_vision.optimizer.base import Optimizer
from peft_vision.optimizer.grid import Grid


def other_seeds(optimizer: Optimizer, seed: int) -> tuple[int, ...]:
    """Return the seeds that are trained besides the run's own, `seed`."""
    seeds = optimizer.seeds if isinstance(optimizer, Grid) else None
    return tuple(other for other in seeds or () if other != seed)


def initial_values(
    assemble: Callable[..., Model], vit: nn.Module, seeds: tuple[int, ...]
) -> Mapping[int, Mapping[str, Tensor]]:
    """Return for each of the seeds the tuned tensors of the model with which its run begins. `assemble` makes such a
    model of a backbone, here of copies of `vit`, which shares its weights with them and has no method yet."""
    return {seed: assemble(sharing(vit), seed=derive(seed, "initialisation")).tuned_state() for seed in seeds}


def metrics_of_seeds(
    model: Model, of_seeds: Mapping[int, Mapping[str, Any]], score: Callable[[], Mapping[str, float]]
) -> dict[int, Mapping[str, float]]:
    """Return what `score` finds of `model` with the tensors that each of the seeds tuned. The model keeps its own."""
    own = {name: tensor.clone() for name, tensor in model.tuned_state().items()}
    found: dict[int, Mapping[str, float]] = {}
    for seed, tuned in of_seeds.items():
        model.load_state_dict(dict(tuned), strict=False)
        found[seed] = score()
    model.load_state_dict(own, strict=False)
    return found
