"""Adam with its weight decay in the gradient (Kingma & Ba, 2015, arXiv:1412.6980), as VQT's code uses it."""

from typing import Annotated

import torch
from pydantic import Field

from peft_vision.core.config import component
from peft_vision.models.model import Model
from peft_vision.optimizer.base import Stepper, fused, parameter_groups

Beta = Annotated[float, Field(ge=0, lt=1)]


@component
class Adam(Stepper):
    betas: tuple[Beta, Beta]

    def create(self, model: Model, *, seed: int) -> torch.optim.Optimizer:
        groups = parameter_groups(model, self.weight_decay)
        return torch.optim.Adam(groups, lr=self.lr, betas=self.betas, fused=fused(groups))
