"""This module turns a gradient into a direction: it defines the moments a rule keeps, how a gradient updates them, and
how they rotate with their coordinates.

Between steps moments are stored in fp32, or block-wise in 8 bit (Dettmers et al., 2022, arXiv:2110.02861), by the
optional library bitsandbytes.

Eight bits are only the storage format: a step converts them to fp32, updates them, and rounds them again, which is what
bitsandbytes' own optimizers compute.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from peft_vision.core.bitsandbytes import dynamic_code, library
from peft_vision.optimizer.projection import Projection


class Rule(ABC):
    """A rule that turns gradients into directions. `moments`: the names of the tensors it keeps, each of the gradient's
    shape, zero at first."""

    moments: tuple[str, ...]

    @abstractmethod
    def direction(self, gradient: Tensor, moments: list[Tensor], step: int) -> Tensor:
        """Return the direction for the gradient of number `step`, counted from 1, before the learning rate. Update
        `moments` in place."""

    @abstractmethod
    def turned(self, moments: list[Tensor], turn: Projection, step: int) -> list[Tensor]:
        """Return the moments after `step` gradients, converted to other coordinates by `turn`."""


@dataclass(frozen=True)
class AdamRule(Rule):
    """Adam (Kingma & Ba, 2015, arXiv:1412.6980).

    `eps_first`: whether eps is added before the bias correction of the second moment, as old Hugging Face code and
    galore-torch do, or after it, as in the paper and torch.

    A rotation treats the coordinates as independent, with means and variances that the moments estimate (Robert et al.,
    2025, arXiv:2410.16103):  m' = m Q,  v' - m'^2 = (v - m^2) (Q o Q).
    """

    betas: tuple[float, float]
    eps: float
    eps_first: bool
    moments = ("exp_avg", "exp_avg_sq")

    def direction(self, gradient: Tensor, moments: list[Tensor], step: int) -> Tensor:
        mean, square = moments
        mean.lerp_(gradient, 1 - self.betas[0])
        square.mul_(self.betas[1]).addcmul_(gradient, gradient, value=1 - self.betas[1])
        mean_bias, square_bias = self._biases(step)
        if self.eps_first:
            return mean / square.sqrt().add_(self.eps) * (sqrt(square_bias) / mean_bias)
        return (mean / square.sqrt().div_(sqrt(square_bias)).add_(self.eps)).div_(mean_bias)

    def turned(self, moments: list[Tensor], turn: Projection, step: int) -> list[Tensor]:
        mean, square = moments
        mean_bias, square_bias = self._biases(step)
        turned_mean = turn.down(mean)
        spread = turn.squared().down(square / square_bias - (mean / mean_bias).square())
        turned_square = (spread + (turned_mean / mean_bias).square()).abs() * square_bias
        return [turned_mean, turned_square]

    def _biases(self, step: int) -> tuple[float, float]:
        """Return the sum of each moment's weights after `step` steps, by which its bias is corrected."""
        return 1 - self.betas[0] ** step, 1 - self.betas[1] ** step


@dataclass(frozen=True)
class Momentum(Rule):
    """Stochastic gradient descent with momentum, as in torch."""

    momentum: float
    moments = ("momentum_buffer",)

    def direction(self, gradient: Tensor, moments: list[Tensor], step: int) -> Tensor:
        return moments[0].mul_(self.momentum).add_(gradient).clone()

    def turned(self, moments: list[Tensor], turn: Projection, step: int) -> list[Tensor]:
        return [turn.down(moments[0])]


_BLOCK = 256  # entries that share a scale
_LEAST = 4096  # smaller tensors stay in fp32, as in bitsandbytes: the scales would cost more than they save
_UNSIGNED = frozenset({"exp_avg_sq"})  # moments that are never negative


def new_moments(names: tuple[str, ...], like: Tensor, *, bits: int) -> dict[str, Tensor]:
    """Return a zero tensor of the shape of `like` under each name, as it is stored."""
    return stored_moments({name: torch.zeros_like(like) for name in names}, bits=bits)


def stored_moments(moments: dict[str, Tensor], *, bits: int) -> dict[str, Tensor]:
    """Return fp32 moments as they are stored: under their names, with `<name>_scales` for those in 8 bit."""
    kept: dict[str, Tensor] = {}
    for name, moment in moments.items():
        if bits == 32 or moment.numel() < _LEAST:
            kept[name] = moment
            continue
        kept[name], state = library().quantize_blockwise(
            A=moment.contiguous(), code=_code(name, moment.device), blocksize=_BLOCK
        )
        kept[f"{name}_scales"] = state.absmax
    return kept


def read_moments(state: dict[str, Any], names: tuple[str, ...]) -> list[Tensor]:
    """Return the moments in fp32; for those that are stored in fp32 the stored tensor itself."""
    return [
        library().dequantize_blockwise(
            A=state[name],
            absmax=state[f"{name}_scales"],
            code=_code(name, state[name].device),
            blocksize=_BLOCK,
        )
        if state[name].dtype == torch.uint8
        else state[name]
        for name in names
    ]


def _code(name: str, device: torch.device) -> Tensor:
    return dynamic_code(device, signed=name not in _UNSIGNED)
