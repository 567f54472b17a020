"""This module defines an optimizer, which steps a model batch by batch or solves for a linear head at once, and what it
decays; and the plain ones, SGD, Adam and AdamW, as torch computes them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional

from peft_vision.core.config import HashDefault, component
from peft_vision.method.base import Pace
from peft_vision.models.model import Model
from peft_vision.models.observations import FeatureTable
from peft_vision.objective.base import Merit
from peft_vision.schedule.schedules import Schedule

Decays = Literal["matrices", "weights", "all"]
"""The parameters that weight decay acts on: matrices and prompts; all but biases, as in VPT's code; all, as in
torch."""


@component
class Optimizer:
    """The settings of an optimizer that fits a model: a Stepper or a Solver."""


@component
class Stepper(Optimizer, ABC):
    """An optimizer that fits a model batch by batch, by the gradient of the loss."""

    lr: PositiveFloat
    weight_decay: NonNegativeFloat

    @property
    def steps_during_backward(self) -> bool:
        """True if each parameter steps as soon as its gradient is computed; the optimizer then has
        `during_backward`."""
        return False

    def check(self, model: Model) -> None:
        """Raise ConfigError where the optimizer cannot fit the trainable parameters of any phase of `model`."""

    @abstractmethod
    def create(self, model: Model, *, seed: int) -> torch.optim.Optimizer:
        """Return an optimizer of the parameters that train in `model`. `seed`: of the optimizer's own random
        numbers."""


@dataclass(frozen=True)
class Fitting:
    """The settings, besides the data, that determine a fit by steps."""

    epochs: int
    batch_size: int
    label_smoothing: float
    schedule: Schedule
    seed: int


@dataclass(frozen=True)
class Solution:
    """The chosen head, `weight` (C, W) and `bias` (C,), its setting, and a row for every setting tried, with
    `train/loss` and, where there are validation images, `val/accuracy` and `val/loss`."""

    weight: Tensor
    bias: Tensor
    chosen: dict[str, float]
    tried: list[dict[str, float]]


@component
class Solver(Optimizer, ABC):
    """An optimizer that solves for a linear head on features that do not change, for one setting or for several.
    Validation chooses the setting with the highest accuracy, of equal ones the lowest loss, then the first. `heeds`:
    the options it uses of the groups trainer and schedule; their other options do not change the result.
    `fits_methods`: whether it also fits what a method trains besides the head, by steps (`training/together.py`)."""

    heeds: ClassVar[str]
    fits_methods: ClassVar[bool] = False

    @property
    @abstractmethod
    def num_settings(self) -> int:
        """Return the number of settings that are tried."""

    @abstractmethod
    def solve(self, head: nn.Linear, train: FeatureTable, val: FeatureTable | None, fitting: Fitting) -> Solution:
        """Return the solution for a fresh `head`, which stays unchanged; all tensors must be on its device."""


def fused(groups: list[dict[str, object]]) -> bool | None:
    """Return True, for one kernel that steps all parameters, where they lie on a GPU; else None, torch's choice."""
    return True if all(parameter.is_cuda for group in groups for parameter in group["params"]) else None


def validated(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return accuracy, a fraction, and mean cross-entropy of logits (n, C) for the labels (n,) of validation images."""
    correct, loss = (logits.argmax(dim=1) == labels).double(), functional.cross_entropy(logits.double(), labels)
    return {"val/accuracy": correct.mean().item(), "val/loss": loss.item()}


def merit_of_tried(tried: Mapping[str, float]) -> Merit:
    """Return the merit of a setting that a solver tried; that of all is equal without validation images."""
    if "val/accuracy" not in tried:
        return Merit.of(0.0, None)
    return Merit.of(tried["val/accuracy"], tried.get("val/loss"))  # early versions kept no loss


def parameter_groups(model: Model, weight_decay: float, decays: Decays = "matrices") -> list[dict[str, object]]:
    """Return the parameters that train, in a decayed and an undecayed group for each pace at which the method lets them
    train; a group without parameters is left out. A group whose rate is not the optimizer's has its `lr_factor`.

    Matrices and prompts are decayed. Biases, norms and scales (one axis), and what timm itself exempts (class token,
    position embeddings), are not. With `decays` "weights" all but biases are decayed, and with "all" everything is.
    """
    exempt = {f"encoder.vit.{name}" for name in getattr(model.encoder.vit, "no_weight_decay", set)()}
    of_paces: dict[Pace, tuple[list[nn.Parameter], list[nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            spared = {
                "matrices": parameter.ndim < 2 or name in exempt,
                "weights": "bias" in name.rpartition(".")[2],
                "all": False,
            }
            of_paces.setdefault(model.pace(name), ([], []))[spared[decays]].append(parameter)
    groups: list[dict[str, object]] = []
    for pace, (decayed, undecayed) in of_paces.items():
        factor = {} if pace.lr_factor == 1 else {"lr_factor": pace.lr_factor}
        decay = weight_decay if pace.weight_decay is None else pace.weight_decay
        groups.append({"params": decayed, "weight_decay": decay, **factor})
        groups.append({"params": undecayed, "weight_decay": 0.0, **factor})
    return [group for group in groups if group["params"]]


Beta = Annotated[float, Field(ge=0, lt=1)]


@component
class AdamW(Stepper):
    """A stepper with decoupled weight decay. `eps`: added to the root of the second moment after its bias correction.
    `decays`: the parameters that are decayed."""

    betas: tuple[Beta, Beta]
    eps: Annotated[PositiveFloat, HashDefault(1e-8)]
    decays: Annotated[Decays, HashDefault("matrices")]

    def create(self, model: Model, *, seed: int) -> torch.optim.Optimizer:
        groups = parameter_groups(model, self.weight_decay, self.decays)
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=fused(groups))


@component
class Adam(Stepper):
    betas: tuple[Beta, Beta]

    def create(self, model: Model, *, seed: int) -> torch.optim.Optimizer:
        groups = parameter_groups(model, self.weight_decay)
        return torch.optim.Adam(groups, lr=self.lr, betas=self.betas, fused=fused(groups))


@component
class SGD(Stepper):
    momentum: Annotated[float, Field(ge=0, lt=1)]

    def create(self, model: Model, *, seed: int) -> torch.optim.Optimizer:
        groups = parameter_groups(model, self.weight_decay)
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, fused=fused(groups))
