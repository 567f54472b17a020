"""This module watches the training loss without making the device wait at every step."""

import math

import torch
from torch import Tensor

from peft_vision.core.config import ConfigError
from peft_vision.core.distributed import World

STEPS_BETWEEN_LOOKS = 20  # reading a loss waits for the device


class LossWatch:
    """The losses of one epoch, read every few steps; a loss that is not finite stops the run."""

    def __init__(self, first_step: int) -> None:
        self._first_step = first_step
        self._unread: list[tuple[Tensor, float]] = []
        self._read: list[float] = []

    def add(self, loss: Tensor, *, lr: float) -> None:
        """Note the mean loss over one batch (this process's part) and the learning rate of its step."""
        self._unread.append((loss, lr))
        if len(self._unread) >= STEPS_BETWEEN_LOOKS:
            self._look()

    def shown(self) -> dict[str, str]:
        """Return the newest loss that was read, for a progress bar."""
        return {"loss": f"{self._read[-1]:.3f}"} if self._read else {}

    def mean(self, world: World) -> float:
        """Return the mean loss over all steps of the epoch and all processes."""
        self._look()
        means = world.gather(math.fsum(self._read) / len(self._read))
        return math.fsum(means)

    def _look(self) -> None:
        if not self._unread:
            return
        values = torch.stack([loss for loss, _ in self._unread]).tolist()
        for value, (_, lr) in zip(values, self._unread, strict=True):
            if not math.isfinite(value):
                step = self._first_step + len(self._read) + 1
                raise ConfigError(
                    f"the training loss became {value} at step {step}, learning rate {lr:.2e}; nothing of it was saved"
                    "\ntry a smaller optimizer.lr, trainer.clip_norm=1, a longer schedule.warmup"
                    " or trainer.precision=fp32"
                )
            self._read.append(value)
        self._unread.clear()
