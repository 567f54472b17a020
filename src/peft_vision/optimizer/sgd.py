"""Stochastic gradient descent with momentum."""

from typing import Annotated

import torch
from pydantic import Field

from peft_vision.core.config import component
from peft_vision.models.model import Model
from peft_vision.optimizer.base import Stepper, fused, parameter_groups


@component
class SGD(Stepper):
    momentum: Annotated[float, Field(ge=0, lt=1)]

    def create(self, model: Model, *, seed: int) -> torch.optim.Optimizer:
        groups = parameter_groups(model, self.weight_decay)
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, fused=fused(groups))
