"""L2-regularised logistic regression, solved to convergence: a linear probe without a learning rate.

    min_W,b   mean cross-entropy(W x + b) + ||W||^2 / (2 C n)          the bias is not penalised

It equals scikit-learn's LogisticRegression(C). A path of strengths C is solved from the strongest regularisation on,
each from a point extrapolated from the previous solutions, and validation chooses, as in LP-FT (Kumar et al., 2022,
arXiv:2202.10054). The solver is full-batch L-BFGS in float64, in coordinates in which the Hessian is nearly known
(`descent`, `logistic`).
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from math import log, prod
from typing import Annotated, ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from peft_vision.core.config import component
from peft_vision.core.progress import track
from peft_vision.models.observations import FeatureTable
from peft_vision.optimizer.base import Fitting, Solution, Solver, accuracy
from peft_vision.optimizer.descent import descend
from peft_vision.optimizer.logistic import Logistic

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
        best = -1.0
        for weights, row in track(self.path(problem), label="L-BFGS path", total=len(self.C), unit="settings"):
            weight, bias = problem.head(weights)
            if val is not None:
                row["val/accuracy"] = accuracy(F.linear(val_features, weight, bias), val.labels).item()
            tried.append(row)
            if row.get("val/accuracy", 0.0) > best:
                best, best_head, chosen = row.get("val/accuracy", 0.0), (weight, bias), {"C": row["C"]}
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
