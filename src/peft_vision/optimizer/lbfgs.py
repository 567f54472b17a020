"""L2-regularised logistic regression, solved to convergence: a linear probe without a learning rate.

    min_W,b   mean cross-entropy(W x + b) + ||W||^2 / (2 C n)          the bias is not penalised

which is scikit-learn's LogisticRegression(C). A path of strengths C is solved from the strongest regularisation on,
each from the solution before it, and validation chooses, as in LP-FT (Kumar et al., 2022, arXiv:2202.10054).
Full batch, float64, L-BFGS with a strong-Wolfe line search (Nocedal & Wright, 2006, chapter 7).
"""

from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from peft_vision.config import component
from peft_vision.features.source import Table
from peft_vision.optimizer.base import Fitting, Solution, Solver, accuracy
from peft_vision.progress import track

_HISTORY = 20  # pairs of steps and gradients that stand for the Hessian


@component
class LBFGS(Solver):
    """`C`: strengths, each the inverse of the penalty. `normalize`: by the mean and the standard deviation of all
    training features together, two numbers, as LP-FT does. `tolerance`: largest entry of the gradient at the end."""

    C: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]
    normalize: bool
    tolerance: PositiveFloat
    max_iterations: PositiveInt

    @property
    def num_settings(self) -> int:
        return len(self.C)

    def solve(self, head: nn.Linear, train: Table, val: Table | None, fitting: Fitting) -> Solution:
        """From zero weights; of `fitting` only the label smoothing counts."""
        features = train.features.double()
        mean, std = (features.mean(), features.std()) if self.normalize else (0.0, 1.0)
        features = (features - mean) / std
        val_features = None if val is None else (val.features.double() - mean) / std
        # the bias is a last column of the weights, for a feature that is always one
        features = F.pad(features, (0, 1), value=1.0)
        weights = features.new_zeros(head.out_features, features.shape[1])
        tried: list[dict[str, float]] = []
        best, best_weights = -1.0, weights
        for strength in track(sorted(self.C), label="L-BFGS path", total=len(self.C), unit="settings"):
            weights, row = self._solved(features, train.labels, weights, strength, fitting.label_smoothing)
            row = {"C": strength, **row}
            if val is not None:
                logits = F.pad(val_features, (0, 1), value=1.0) @ weights.T
                row["val/accuracy"] = accuracy(logits, val.labels).item()
            tried.append(row)
            if row.get("val/accuracy", 0.0) > best:
                best, best_weights, chosen = row.get("val/accuracy", 0.0), weights, {"C": strength}
        weight = best_weights[:, :-1] / std
        bias = best_weights[:, -1] - weight.sum(dim=1) * mean
        return Solution(weight.to(head.weight.dtype), bias.to(head.weight.dtype), chosen, tried)

    def _solved(
        self, features: Tensor, labels: Tensor, start: Tensor, strength: float, label_smoothing: float
    ) -> tuple[Tensor, dict[str, float]]:
        """The weights (C, W + 1) for one strength, and how the search ended."""
        weights = start.clone().requires_grad_()
        decay = 1 / (2 * strength * len(labels))
        search = torch.optim.LBFGS(
            [weights],
            max_iter=self.max_iterations,
            max_eval=2 * self.max_iterations,
            tolerance_grad=self.tolerance,
            tolerance_change=0.0,
            history_size=_HISTORY,
            line_search_fn="strong_wolfe",
        )
        losses = []

        def objective() -> Tensor:
            search.zero_grad()
            loss = F.cross_entropy(features @ weights.T, labels, label_smoothing=label_smoothing)
            objective = loss + decay * weights[:, :-1].square().sum()
            objective.backward()
            losses.append(loss.item())
            return objective

        search.step(objective)
        objective()
        slope = weights.grad.abs().max().item()
        return weights.detach(), {"train/loss": losses[-1], "gradient": slope, "evaluations": len(losses)}
