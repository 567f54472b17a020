"""This module computes the learning rate over the run, as a factor of `optimizer.lr`."""

import math
from abc import ABC, abstractmethod
from typing import Annotated

from pydantic import Field, PositiveInt

from peft_vision.core.config import component


@component
class Schedule(ABC):
    """A schedule of the learning rate. `warmup`: the share of all steps in which the factor rises linearly to 1; that
    of the first step is above zero."""

    warmup: Annotated[float, Field(ge=0, lt=1)]

    def factor(self, step: int, num_steps: int) -> float:
        """Return the factor for `step` in [0, num_steps)."""
        warmup_steps = round(self.warmup * num_steps)
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return self.after_warmup((step - warmup_steps) / max(1, num_steps - warmup_steps))

    @abstractmethod
    def after_warmup(self, progress: float) -> float:
        """Return the factor after the warm-up, for `progress` in [0, 1)."""


@component
class Cosine(Schedule):
    """A schedule that falls from 1 to 0 along half a cosine."""

    def after_warmup(self, progress: float) -> float:
        return (1 + math.cos(math.pi * progress)) / 2


@component
class Constant(Schedule):
    """A schedule that stays at 1."""

    def after_warmup(self, progress: float) -> float:
        return 1.0


@component
class CosineByEpoch(Cosine):
    """A cosine that has one factor for all steps of an epoch, which is 0 in the first epoch of a warm-up: the code of
    VPT and VQT sets the rate before each of `epochs` epochs."""

    epochs: PositiveInt

    @property
    def warmup_epochs(self) -> int:
        """Return the number of epochs in the warm-up."""
        return round(self.warmup * self.epochs)

    def factor(self, step: int, num_steps: int) -> float:
        epoch = step * self.epochs // num_steps
        if epoch < self.warmup_epochs:
            return epoch / self.warmup_epochs
        return self.after_warmup((epoch - self.warmup_epochs) / max(1, self.epochs - self.warmup_epochs))


@component
class CosineOfTimm(CosineByEpoch):
    """The cosine of timm's scheduler, stepped as in NOAH's code and later code when an epoch is over: each epoch trains
    with the rate of the one before, and the cosine falls from the first epoch on, also under the warm-up. `start`: the
    factor at which the warm-up begins; `floor`: the factor at which the cosine ends."""

    start: Annotated[float, Field(ge=0, le=1)]
    floor: Annotated[float, Field(ge=0, le=1)]

    def factor(self, step: int, num_steps: int) -> float:
        epoch = max(0, step * self.epochs // num_steps - 1)
        if epoch < self.warmup_epochs:
            return self.start + (1 - self.start) * epoch / self.warmup_epochs
        return self.floor + (1 - self.floor) * self.after_warmup(epoch / self.epochs)
