"""L2-regularised logistic regression, solved to convergence: a linear probe without a learning rate.

    min_W,b   mean cross-entropy(W x + b) + ||W||^2 / (2 C n)          the bias is not penalised

It equals scikit-learn's LogisticRegression(C). A path of strengths C is solved from the strongest regularisation on,
each from a point extrapolated from the previous solutions, and validation chooses, as in LP-FT (Kumar et al., 2022,
arXiv:2202.10054). `descend` is full-batch L-BFGS in float64 (Nocedal & Wright, 2006, algorithms 7.4 and 7.5):

    step = -H gradient     H = the known inverse, scaled, and corrected by the last steps and the gradient's changes

The line search uses slopes only: near the minimum, values of the objective differ by less than their rounding error and
slopes do not, so the gradient can be reduced far below the square root of the machine's precision.

`Logistic` is the problem on all features at once, in coordinates in which its Hessian is nearly known:

    objective(W, b) = mean cross-entropy(W x + b) + penalty / 2 ||W||^2

Centring the features changes only b, which has no penalty, and rotating them preserves ||W||: the minimum is that of
the original problem, in other coordinates. Where the features are uncorrelated the Hessian is about a Kronecker product
with a diagonal second factor (compare Martens & Grosse, 2015, arXiv:1503.05671):

    Hessian ~ E[diag(p) - p p^T] (x) E[v x^2] / E[v] + penalty      p probabilities, v = 1 - ||p||^2

Two small eigendecompositions invert it. Letters: n images, W width, K classes that are fitted; weights are (K, W + 1),
whose last column is the bias.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import log, prod
from typing import Annotated, ClassVar, NamedTuple

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from peft_vision.core.config import component
from peft_vision.core.progress import track
from peft_vision.models.observations import FeatureTable
from peft_vision.objective.base import Merit
from peft_vision.optimizer.base import Fitting, Solution, Solver, merit_of_tried, validated


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


_HISTORY = 10  # steps that correct the known inverse
_REFRESH = 30  # iterations until the inverse is recomputed at the current weights
_FALLEN = 0.9  # a step beyond the lowest point is taken up to this slope, relative to the slope before it


class Pair(NamedTuple):
    """A step, the change of the gradient over it, and their product, which is positive as the problem is convex."""

    step: Tensor
    change: Tensor
    product: Tensor


class End(NamedTuple):
    """The end of a search: the weights, the largest entry of the `gradient` there, and the number of `evaluations`,
    which are pairs of products with the features."""

    weights: Tensor
    gradient: float
    evaluations: int


def descend(problem: Logistic, start: Tensor, *, penalty: float, tolerance: float, max_iterations: int) -> End:
    """Return the end of a search from `start`, which stops once no entry of the gradient exceeds `tolerance`, or at
    rounding or `max_iterations`."""
    weights, gradient = start, problem.gradient(start, penalty)
    evaluations = 1
    pairs: deque[Pair] = deque(maxlen=_HISTORY)
    for iteration in range(max_iterations):
        if problem.largest(gradient) <= tolerance:
            break
        if iteration % _REFRESH == 0:
            inverse_hessian = problem.inverse_hessian(weights, penalty)
            evaluations += 1
        step = -_quasi_newton(gradient, pairs, inverse_hessian)
        slope = _dot(gradient, step)
        if not slope < 0:
            break  # only rounding errors are left, or NaN
        following = problem.gradient(weights + step, penalty)
        evaluations += 1
        while (beyond := _dot(following, step)) > -_FALLEN * slope:
            # too far: along a line the slope of a convex function only grows, so interpolate linearly to its zero
            fraction = slope / (slope - beyond)
            step, slope = fraction * step, fraction * slope
            following = problem.gradient(weights + step, penalty)
            evaluations += 1
        pair = Pair(step, following - gradient, _dot(step, following - gradient))
        if pair.product > 0:
            pairs.append(pair)
        weights, gradient = weights + step, following
    return End(weights, problem.largest(gradient), evaluations)


def _quasi_newton(gradient: Tensor, pairs: Sequence[Pair], inverse_hessian: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the product of `gradient` with the inverse Hessian that agrees with all pairs."""
    if not pairs:
        return inverse_hessian(gradient)
    direction, shares = gradient, []
    for pair in reversed(pairs):
        shares.append(_dot(pair.step, direction) / pair.product)
        direction = direction - shares[-1] * pair.change
    latest = pairs[-1]
    direction = inverse_hessian(direction) * (latest.product / _dot(latest.change, inverse_hessian(latest.change)))
    for pair, share in zip(pairs, reversed(shares), strict=True):
        direction = direction + (share - _dot(pair.change, direction) / pair.product) * pair.step
    return direction


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum()


_SOLUTIONS = 4  # previous solutions that the next one is extrapolated from: up to a cubic


@component
class LBFGS(Solver):
    """A solver by logistic regression. `C`: strengths, each the inverse of the penalty. `normalize`: whether features
    are normalised by the mean and the standard deviation of all training features together, two numbers, as in LP-FT.
    `tolerance`: largest entry of the gradient at which a search ends."""

    heeds: ClassVar[str] = "trainer.precision and label_smoothing"

    C: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]
    normalize: bool
    tolerance: PositiveFloat
    max_iterations: PositiveInt

    @property
    def num_settings(self) -> int:
        return len(self.C)

    def solve(self, head: nn.Linear, train: FeatureTable, val: FeatureTable | None, fitting: Fitting) -> Solution:
        """Return the best solution of the path, which begins at zero weights; of `fitting` only the label smoothing
        matters."""
        mean, std = 0.0, 1.0
        if self.normalize:
            std, mean = torch.std_mean(train.features.double())
        features = (train.features.double() - mean) / std
        problem = Logistic(features, train.labels, head.out_features, fitting.label_smoothing)
        val_features = None if val is None else (val.features.double() - mean) / std
        tried: list[dict[str, float]] = []
        best: Merit | None = None
        for weights, row in track(self.path(problem), label="L-BFGS path", total=len(self.C), unit="settings"):
            weight, bias = problem.head(weights)
            if val is not None:
                row |= validated(F.linear(val_features, weight, bias), val.labels)
            tried.append(row)
            if best is None or merit_of_tried(row) > best:
                best, best_head, chosen = merit_of_tried(row), (weight, bias), {"C": row["C"]}
        weight, bias = best_head
        weight = weight / std
        bias = bias - weight.sum(dim=1) * mean
        return Solution(weight.to(head.weight.dtype), bias.to(head.weight.dtype), chosen, tried)

    def path(self, problem: Logistic) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """Yield for each strength, the strongest penalty first, the weights in `problem`'s coordinates and a row with
        the state at the end of the search. Its `evaluations` count pairs of products with the features."""
        solved: deque[tuple[float, Tensor]] = deque(maxlen=_SOLUTIONS)
        for strength in sorted(self.C):
            penalty = 1 / (strength * len(problem.labels))
            starts = _foreseen(solved, strength) or [problem.zeros()]
            objectives = [problem.objective(weights, penalty) for weights in starts]
            start = starts[objectives.index(min(objectives))]
            end = descend(problem, start, penalty=penalty, tolerance=self.tolerance, max_iterations=self.max_iterations)
            solved.append((strength, end.weights))
            row = {"C": strength, "train/loss": problem.loss(end.weights), "gradient": end.gradient}
            yield end.weights, {**row, "evaluations": len(starts) + end.evaluations}


def _foreseen(solved: Iterable[tuple[float, Tensor]], strength: float) -> list[Tensor]:
    """Return the last solution, and the values at `strength` of the line, the parabola and the cubic in log C through
    the last solutions."""
    latest_first = list(solved)[::-1]
    return [_polynomial(latest_first[:count], strength) for count in range(1, len(latest_first) + 1)]


def _polynomial(solutions: Sequence[tuple[float, Tensor]], strength: float) -> Tensor:
    """Return Lagrange's polynomial in log C through `solutions`, at `strength`."""
    strengths = [node for node, _ in solutions]
    shares = [
        prod(log(strength / other) / log(node / other) for other in strengths if other != node) for node in strengths
    ]
    return torch.stack([share * weights for share, (_, weights) in zip(shares, solutions, strict=True)]).sum(dim=0)
