"""This module has the plain optimizers, SGD, Adam and AdamW, as torch computes them."""

from typing import Annotated

import torch
from pydantic import Field, PositiveFloat

from peft_vision.core.config import HashDefault, component
from peft_vision.models.model import Model
from peft_vision.optimizer.base import Decays, Stepper, fused, parameter_groups

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
