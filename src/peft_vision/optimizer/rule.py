"""This module turns a gradient into a direction: it defines the moments a rule keeps, how a gradient updates them, and
how they rotate with their coordinates."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import sqrt

from torch import Tensor

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
