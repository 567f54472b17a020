"""What an optimizer is, and which parameters it decays."""

from abc import ABC, abstractmethod

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import nn

from peft_vision.config import component
from peft_vision.model import Model


@component
class Optimizer(ABC):
    lr: PositiveFloat
    weight_decay: NonNegativeFloat

    @abstractmethod
    def create(self, model: Model) -> torch.optim.Optimizer:
        """An optimizer of what trains in `model`."""


def parameter_groups(model: Model, weight_decay: float) -> list[dict[str, object]]:
    """What trains, in a decayed and an undecayed group.

    Decay is for matrices and prompts. Biases, norms and scales (one axis), and what timm itself exempts (class token,
    position embeddings), have none.
    """
    exempt = {f"encoder.vit.{name}" for name in model.encoder.vit.no_weight_decay()}
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (undecayed if parameter.ndim < 2 or name in exempt else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": undecayed, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
