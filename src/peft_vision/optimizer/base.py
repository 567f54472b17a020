"""This module defines an optimizer, which steps a model batch by batch or solves for a linear head at once, and what it
decays; and the plain ones, SGD, Adam and AdamW, as torch computes them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from peft_vision.core.config import HashDefault, component
from peft_vision.models.model import Model
from peft_vision.models.observations import FeatureTable
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
    `train/loss` and, where there are validation images, `val/accuracy`."""

    weight: Tensor
    bias: Tensor
    chosen: dict[str, float]
    tried: list[dict[str, float]]


@component
class Solver(Optimizer, ABC):
    """An optimizer that solves for a linear head on features that do not change, for one setting or for several.
    Validation chooses the setting with the highest accuracy, the first of equal ones. `heeds`: the options it uses of
    the groups trainer and schedule; their other options do not change the result."""

    heeds: ClassVar[str]

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


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the accuracy (...), a fraction, of logits (..., n, C) for labels (n,)."""
    return (logits.argmax(dim=-1) == labels).double().mean(dim=-1)


def parameter_groups(model: Model, weight_decay: float, decays: Decays = "matrices") -> list[dict[str, object]]:
    """Return the parameters that train, in a decayed and an undecayed group; a group without parameters is left out.

    Matrices and prompts are decayed. Biases, norms and scales (one axis), and what timm itself exempts (class token,
    position embeddings), are not. With `decays` "weights" all but biases are decayed, and with "all" everything is.
    """
    exempt = {f"encoder.vit.{name}" for name in getattr(model.encoder.vit, "no_weight_decay", set)()}
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            spared = {
                "matrices": parameter.ndim < 2 or name in exempt,
                "weights": "bias" in name.rpartition(".")[2],
                "all": False,
            }
            (undecayed if spared[decays] else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": undecayed, "weight_decay": 0.0}]
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
