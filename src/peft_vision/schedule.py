"""Learning rate over the run, as a factor of `optimizer.lr`."""

import math
from abc import ABC, abstractmethod
from typing import Annotated

from pydantic import Field, PositiveInt

from peft_vision.config import component


@component
class Schedule(ABC):
    """`warmup`: the share of all steps in which the factor rises linearly to 1; the first step is above zero."""

    warmup: Annotated[float, Field(ge=0, lt=1)]

    def factor(self, step: int, num_steps: int) -> float:
        """For `step` in [0, num_steps)."""
        warmup_steps = round(self.warmup * num_steps)
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return self.after_warmup((step - warmup_steps) / max(1, num_steps - warmup_steps))

    @abstractmethod
    def after_warmup(self, progress: float) -> float:
        """For `progress` in [0, 1)."""


@component
class Cosine(Schedule):
    """1 down to 0 along half a cosine."""

    def after_warmup(self, progress: float) -> float:
        return (1 + math.cos(math.pi * progress)) / 2


@component
class Constant(Schedule):
    """1 all along."""

    def after_warmup(self, progress: float) -> float:
        return 1.0


@component
class CosineByEpoch(Cosine):
    """One factor for all steps of an epoch, and none at all in the first epoch of a warm-up: VPT's and VQT's codes set
    the rate before each of `epochs` epochs."""

    epochs: PositiveInt

    def factor(self, step: int, num_steps: int) -> float:
        epoch = step * self.epochs // num_steps
        warmup_epochs = round(self.warmup * self.epochs)
        if epoch < warmup_epochs:
            return epoch / warmup_epochs
        return self.after_warmup((epoch - warmup_epochs) / max(1, self.epochs - warmup_epochs))
