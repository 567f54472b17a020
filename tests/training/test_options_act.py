"""Every option of what trains changes what a training comes to, or is marked as one that does not."""

import copy
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from omegaconf import OmegaConf
from pydantic import ValidationError
from torch import Tensor

from low_rank_steps import gradient
from peft_vision.core import bitsandbytes
from peft_vision.core.config import CONFIG_DIR, NOT_HASHED, OnlyWith, build
from peft_vision.core.config_files import ConfigFiles
from peft_vision.features.store import TYPES, Features
from peft_vision.head.base import Head
from peft_vision.models.model import Model
from peft_vision.models.observations import FeatureTable, Views
from peft_vision.optimizer.base import Fitting, Optimizer, Solver
from peft_vision.schedule.schedules import Constant, Schedule
from peft_vision.training.trainer import Trainer
from shipped import adapted
from test_trainer import fit, random_images

KINDS = {
    "optimizer": Optimizer,
    "probe": Optimizer,
    "head": Head,
    "schedule": Schedule,
    "trainer": Trainer,
    "features": Features,
}
FILES = ConfigFiles([CONFIG_DIR])  # all processes that collect the tests read them, for which Hydra takes seconds
SIZES = {"rank": 2, "gap": 2, "epochs": 2, "batch_size": 8, "eval_batch_size": 16, "precision": "fp32"}
OTHER: dict[str, Any] = {
    "lr": 0.02,
    "weight_decay": 0.5,
    "betas": (0.5, 0.6),
    "eps": 1e-2,
    "momentum": 0.2,
    "matrices": r"blocks\..*\.fc1\.weight",
    "rank": 3,
    "gap": 3,
    "adaptive_gap": 1e-6,
    "scale": 2.0,
    "C": (1e-3,),
    "tolerance": 1e-1,
    "max_iterations": 1,
    "hidden": (8,),
    "dropout": 0.5,
    "std": 0.3,
    "warmup": 0.6,
    "start": 0.7,
    "floor": 0.7,
    "epochs": 3,
    "batch_size": 7,
    "clip_norm": 1e-2,
    "label_smoothing": 0.3,
    "mixup_alpha": 0.5,
    "cutmix_alpha": 0.5,
    "precision": "bf16",
    "views": 2,
}
"""A value that no shipped option has; the other fields are choices, of which each other one is tried."""
COSTS = {"per_layer", "accumulate", "checkpointing", "compile"}
"""Change what a run costs, which its result tells, and its numbers by rounding at most: tested where they are made."""
OF_METHODS = {"seeds"}
"""Are refused where a solver fits a head: `test_seeds_together.py`."""


@cache
def shipped(group: str, name: str) -> Any:
    """The component, of the sizes of a tiny training."""
    node = FILES.composed({group: name}).values[group]
    roots = {"method": {"lr": {"sgd": 0.1, "adamw": 1e-2}}, "trainer": {"epochs": 2}}
    node = OmegaConf.to_container(OmegaConf.create({**roots, group: node}), resolve=True)[group]
    sizes = {**SIZES, "epochs": 12} if group == "schedule" else SIZES  # of which the first is the warm-up
    return build({key: sizes.get(key, value) for key, value in node.items()}, KINDS[group], group)


def one_layer(method: str, **options: Any) -> Model:
    return adapted(method, architecture={"depth": 1}, **options)


def marks(component: Any, field: str) -> tuple[Any, ...]:
    return getattr(get_type_hints(type(component), include_extras=True)[field], "__metadata__", ())


def acts(component: Any, field: str) -> bool:
    """Whether it says of the field that it changes a result."""
    return not any(
        mark == NOT_HASHED or (isinstance(mark, OnlyWith) and not mark.acts_in(component))
        for mark in marks(component, field)
    )


def others(component: Any, field: str) -> list[Any]:
    """Other values of the field."""
    if field in OTHER:
        value = OTHER[field]
        return [(value,) if isinstance(getattr(component, field), tuple) and not isinstance(value, tuple) else value]
    hint = get_type_hints(type(component))[field]
    choices = (True, False) if hint is bool else get_args(hint)
    assert hint is bool or get_origin(hint) is Literal, f"{field}: a value to try is missing"
    choices = [value for value in choices if value != getattr(component, field)]
    return choices if field != "bits" or bitsandbytes.is_installed() else []


CASES = [
    (group, path.stem, field.name)
    for group in KINDS
    for path in sorted((Path(CONFIG_DIR) / group).glob("*.yaml"))
    for field in fields(shipped(group, path.stem))
    if field.name not in COSTS | OF_METHODS and NOT_HASHED not in marks(shipped(group, path.stem), field.name)
]


@pytest.mark.parametrize(("group", "name", "field"), CASES)
def test_another_value_ends_elsewhere_where_the_option_acts_and_nowhere_else(group, name, field):
    component = shipped(group, name)
    usual = trained(component)
    for value in others(component, field):
        try:
            other = replace(component, **{field: value})
        except ValidationError:
            continue  # refused beside the other values
        same = all(map(torch.equal, trained(other), usual))
        assert same != (acts(component, field) or acts(other, field)), value


@cache
def trained(component: Any) -> list[Tensor]:
    """What a tiny training with this component comes to."""
    match component:
        case Solver():
            return solved(component)
        case Optimizer():
            return stepped(component)
        case Head() if component.reads != "features":
            return outputs(component)
        case Head():
            return weights(one_layer("linear", head=vars(component)))
        case Schedule():
            return [torch.tensor([component.factor(step, 12) for step in range(12)])]
        case Trainer():
            return weights(one_layer("linear"), lr=3.0, **vars(component))
        case Features():
            return shown(component)


@pytest.mark.parametrize("name", ["grid", "lbfgs"])
def test_a_solver_heeds_of_a_trainer_and_a_schedule_what_it_says(name):
    solver = shipped("optimizer", name)
    changes = {"epochs": 3, "batch_size": 7, "label_smoothing": 0.3, "schedule": Constant(warmup=0.5)}
    acts = {
        field
        for field, value in changes.items()
        if not all(map(torch.equal, solved(solver, **{field: value}), solved(solver)))
    }
    assert acts == {field for field in changes if field in solver.heeds}


def solved(solver: Solver, **options: Any) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    train, val = (FeatureTable(torch.arange(n) % 3, 2 + 3 * torch.randn(n, 6, generator=generator)) for n in (30, 12))
    usual = {"epochs": 2, "batch_size": 8, "label_smoothing": 0.0, "schedule": Constant(warmup=0.0), "seed": 0}
    fitting = Fitting(**{**usual, **options})
    torch.manual_seed(0)
    solution = solver.solve(torch.nn.Linear(6, 3), train, val, fitting)
    return [solution.weight, torch.tensor([row["train/loss"] for row in solution.tried])]


def stepped(optimizer: Optimizer) -> list[Tensor]:
    """By made-up gradients, long enough for subspaces to turn and gaps to double."""
    model = copy.deepcopy(small())
    stepper = optimizer.create(model, seed=0)
    trains = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for step in range(14):
        for place, parameter in enumerate(trains):
            parameter.grad = slope(step, place).clone()
        stepper.step()
    return [parameter.detach() for parameter in trains]


TRAINS = ("pos_embed", "patch_embed.proj.weight", "fc1.weight", "fc2.weight", "fc2.bias", "head.0.weight")


@cache
def small() -> Model:
    """Trains some tensors of each kind: matrices that are wide, tall, large and of the head, positions and a bias."""
    model = one_layer("full")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith(TRAINS))
    return model


@cache
def slope(step: int, place: int) -> Tensor:
    trains = [parameter for parameter in small().parameters() if parameter.requires_grad]
    return gradient(trains[place], step, place)


def weights(model: Model, **options: Any) -> list[Tensor]:
    fit(model, **options)
    return list(model.tuned_state().values())


def outputs(head: Head) -> list[Tensor]:
    """The logits of a head for segmentation in training, and what it learned of the batch."""
    model = one_layer("linear", head=head, objective="segmentation")
    torch.manual_seed(0)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return [model(images), *model.tuned_state().values()]


def shown(features: Features) -> list[Tensor]:
    """What an epoch sees of augmented images, to the type they are rounded to."""
    images = random_images(9, augment="flip_crop")
    source = Views(images, features.views) if features.views else images
    (pixels, _) = next(source.batches([torch.arange(9)], seed=3, workers=0))
    models = one_layer("linear"), one_layer("linear", head="segment_linear", objective="segmentation")
    for model in models:
        model.round_observations_to(TYPES[features.dtype], grid=TYPES[features.grid_dtype])
    return [model.features(pixels) for model in models]
