"""L-BFGS for a convex problem whose Hessian is nearly known (Nocedal & Wright, 2006, algorithms 7.4 and 7.5).

    step = -H gradient     H = the known inverse, scaled, and corrected by the last steps and the gradient's changes

The line search uses slopes only: near the minimum, values of the objective differ by less than their rounding error and
slopes do not, so the gradient can be reduced far below the square root of the machine's precision.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from peft_vision.optimizer.logistic import Logistic

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
