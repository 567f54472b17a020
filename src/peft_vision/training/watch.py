"""This module watches a training: its loss, without making the device wait at every step, and tensors that should train
and never would, because no backward pass reaches them.
"""

import math
from functools import partial

import torch
from torch import Tensor, nn

from peft_vision.core.config import ConfigError
from peft_vision.core.distributed import World
from peft_vision.core.output import one_line

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


class Unreached:
    """A watch that observes the parameters of `model` that train now, from its creation until `check`.

    A module that no forward pass calls, put into a place that does not exist, leaves its parameters without a gradient,
    and an optimizer silently skips them.
    """

    def __init__(self, model: nn.Module) -> None:
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._unreached = dict.fromkeys(trained)
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(partial(self._reach, name))
            for name, parameter in trained.items()
        ]

    def check(self) -> None:
        """Stop watching; raise ConfigError if a parameter got no gradient since."""
        for hook in self._hooks:
            hook.remove()
        if self._unreached:
            first, *others = self._unreached
            more = f" and {len(others)} more" if others else ""
            raise ConfigError(
                f"method: {one_line(first)}{more} should train, and got no gradient in the first step\n"
                "no forward pass reads it: it was put where nothing looks, or what called it was replaced; see the "
                "places in docs/extending.md"
            )

    def _reach(self, name: str, _: Tensor) -> None:
        self._unreached.pop(name, None)
