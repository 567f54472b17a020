"""AdamW: Adam with decoupled weight decay (Loshchilov & Hutter, 2019, arXiv:1711.05101)."""

from typing import Annotated

import torch
from pydantic import Field

from peft_vision.config import component
from peft_vision.model import Model
from peft_vision.optimizer.base import Stepper, parameter_groups

Beta = Annotated[float, Field(ge=0, lt=1)]


@component
class AdamW(Stepper):
    betas: tuple[Beta, Beta]

    def create(self, model: Model, *, seed: int) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameter_groups(model, self.weight_decay), lr=self.lr, betas=self.betas)
