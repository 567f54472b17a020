"""Multinomial logistic regression on all features at once, in coordinates in which its Hessian is nearly known.

    objective(W, b) = mean cross-entropy(W x + b) + penalty / 2 ||W||^2

Centring the features changes only b, which has no penalty, and rotating them preserves ||W||: the minimum is that of
the original problem, in other coordinates. Where the features are uncorrelated the Hessian is about a Kronecker product
with a diagonal second factor (compare Martens & Grosse, 2015, arXiv:1503.05671):

    Hessian ~ E[diag(p) - p p^T] (x) E[v x^2] / E[v] + penalty      p probabilities, v = 1 - ||p||^2

Two small eigendecompositions invert it. Letters: n images, W width, K classes that are fitted; weights are (K, W + 1),
whose last column is the bias.
"""

from collections.abc import Callable
from math import log

import torch
from torch import Tensor
from torch.nn import functional as F


class Logistic:
    """A logistic regression problem on `features` (n, W) in float64, which stay unchanged; all tensors stay on their
    device."""

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int, label_smoothing: float) -> None:
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        # without label smoothing a class without images has no minimum: its bias would fall for ever
        self.fitted, self.labels = torch.unique(labels, return_inverse=True)
        if label_smoothing:
            self.fitted, self.labels = torch.arange(num_classes, device=labels.device), labels
        self.mean = features.mean(dim=0)
        centred = features - self.mean
        _, self.basis = torch.linalg.eigh(centred.T @ centred)
        self.features = centred @ self.basis

    def zeros(self) -> Tensor:
        return self.features.new_zeros(len(self.fitted), self.features.shape[1] + 1)

    def loss(self, weights: Tensor) -> float:
        return F.cross_entropy(self._logits(weights), self.labels, label_smoothing=self.label_smoothing).item()

    def objective(self, weights: Tensor, penalty: float) -> float:
        return self.loss(weights) + penalty / 2 * weights[:, :-1].square().sum().item()

    def gradient(self, weights: Tensor, penalty: float) -> Tensor:
        """Return the gradient (K, W + 1), by two products with the features."""
        errors = self._logits(weights).softmax(dim=1)
        errors -= self.label_smoothing / self.num_classes
        errors.scatter_add_(1, self.labels[:, None], errors.new_full((len(errors), 1), self.label_smoothing - 1))
        errors /= len(errors)
        gradient = torch.cat([errors.T @ self.features, errors.sum(dim=0)[:, None]], dim=1)
        gradient[:, :-1] += penalty * weights[:, :-1]
        return gradient

    def largest(self, gradient: Tensor) -> float:
        """Return the largest absolute entry of a gradient, converted to the original coordinates."""
        original = gradient[:, :-1] @ self.basis.T + torch.outer(gradient[:, -1], self.mean)
        return max(original.abs().max().item(), gradient[:, -1].abs().max().item())

    def inverse_hessian(self, weights: Tensor, penalty: float) -> Callable[[Tensor], Tensor]:
        """Return a function that multiplies a gradient by an approximate inverse of the Hessian at `weights`."""
        probabilities = self._logits(weights).softmax(dim=1)
        spread = 1 - probabilities.square().sum(dim=1)
        between = probabilities.sum(dim=0).diag() - probabilities.T @ probabilities
        scales, directions = torch.linalg.eigh(between / len(spread))
        second_moments = torch.cat([spread @ self.features.square(), spread.sum()[None]]) / spread.sum()
        floor = torch.finfo(scales.dtype).eps * scales[-1]  # smaller eigenvalues are rounding errors, of either sign
        curvature = torch.outer(scales.clamp(min=floor), second_moments)
        curvature[:, :-1] += penalty
        curvature[0, -1] = torch.inf  # adding a constant to every bias changes nothing
        return lambda gradient: directions @ ((directions.T @ gradient) / curvature)

    def head(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return `weight` (C, W) and `bias` (C,) of all classes, in the coordinates of the original features."""
        weight = weights.new_zeros(self.num_classes, len(self.mean))
        weight[self.fitted] = weights[:, :-1] @ self.basis.T
        # a class that is not fitted gets no more than a rounding error of any image's probability
        least = self._logits(weights).logsumexp(dim=1).min()
        bias = (least + log(torch.finfo(weights.dtype).eps)).repeat(self.num_classes)
        bias[self.fitted] = weights[:, -1]
        return weight, bias - weight @ self.mean

    def _logits(self, weights: Tensor) -> Tensor:
        """Return the logits (n, K)."""
        return torch.addmm(weights[:, -1], self.features, weights[:, :-1].T)
