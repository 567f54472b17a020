"""This module learns numbers: one or several targets, standardised by their mean and deviation in training."""

import logging
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from torch import Generator, Tensor

from peft_vision.core.config import component
from peft_vision.core.output import one_line
from peft_vision.data.splits import LabelKind
from peft_vision.objective.base import Criterion, Metric, Objective, checked_losses
from peft_vision.objective.predictions import KeptPredictions, arrays

_log = logging.getLogger("peft_vision")
_METRICS = {
    "r2": Metric("r2", is_fraction=False),
    "spearman": Metric("spearman", is_fraction=False),
    "mae": Metric("mae", higher_is_better=False, is_fraction=False),
    "rmse": Metric("rmse", higher_is_better=False, is_fraction=False),
}


@component
class Regression(Objective):
    """An objective of numbers. `error`: mse or l1, of standardised targets. `choose_by`: the metric by which everything
    is chosen, a mean over the targets: r2, spearman (higher is better), or mae, rmse (lower is better)."""

    labels_are: ClassVar[LabelKind] = "numbers"

    error: Literal["mse", "l1"]
    choose_by: Literal["r2", "spearman", "mae", "rmse"]

    @property
    def metric(self) -> Metric:
        return _METRICS[self.choose_by]

    def criterion(self, classes: Sequence[str]) -> "Numbers":
        return Numbers(self.metric, tuple(classes), self.error)


class Numbers(Criterion):
    """A criterion of outputs (B, T) in the targets' own units for labels (B, T). The buffers `mean` and `std` (T,), of
    the training labels, are saved with the model."""

    learns = True

    def __init__(self, metric: Metric, targets: tuple[str, ...], error: str) -> None:
        super().__init__(len(targets), metric)
        self.targets = targets
        self._error = error
        self.register_buffer("mean", torch.zeros(len(targets)))
        self.register_buffer("std", torch.ones(len(targets)))

    def forward(self, outputs: Tensor) -> Tensor:
        return outputs * self.std + self.mean

    def fit(self, labels: Tensor) -> None:
        """Take the mean and the standard deviation (over n) of each target; 1 for a target that never varies, which is
        said, since there is nothing to learn of it."""
        values = labels.double()
        std = values.std(dim=0, correction=0)
        for target, column in zip(self.targets, values.unbind(dim=1), strict=True):
            if len(column) and (column == column[0]).all():
                _log.warning("objective %s is %g in every training image", one_line(target), column[0])
        self.mean.copy_(values.mean(dim=0))
        self.std.copy_(torch.where(std > 0, std, 1.0))

    def loss(self, outputs: Tensor, labels: Tensor, *, label_smoothing: float) -> Tensor:
        return self._losses(outputs, labels).sum()

    def _losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean error of each image over its standardised targets, (B,)."""
        errors = (outputs - labels) / self.std
        return (errors.square() if self._error == "mse" else errors.abs()).mean(dim=1)

    def made_up_labels(self, count: int, sides: tuple[int, int], generator: Generator) -> Tensor:
        return torch.randn(count, self.num_outputs, generator=generator)

    def judge(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Return the loss (B,), the outputs (B, T) and the labels (B, T)."""
        return self._losses(outputs, labels), outputs, labels

    def predictions(self, columns: Sequence[Tensor], classes: Sequence[str]) -> KeptPredictions:
        loss, outputs, labels = arrays(columns)
        return KeptPredictions("numbers", tuple(classes), loss, labels, outputs)

    def scores(self, columns: Sequence[Tensor]) -> dict[str, float]:
        """Return the mean of each metric over the targets, and that of each target where there are several."""
        losses, outputs, labels = columns
        checked_losses(losses)
        found, truth = outputs.double().numpy(), labels.double().numpy()
        of_targets = {name: scored(truth[:, i], found[:, i]) for i, name in enumerate(self.targets)}
        names = ("mae", "rmse", "r2", "spearman")
        means = {}
        for name in names:
            values = [scores[name] for scores in of_targets.values() if name in scores]
            if values:
                means[name] = float(np.mean(values))
        single = len(self.targets) == 1
        each = {} if single else {f"{name}/{target}": v for target, s in of_targets.items() for name, v in s.items()}
        return {**means, **each, "loss": losses.double().mean().item()}


def scored(truth: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Return mae, rmse, r2 and spearman of predictions (n,). R² needs two images and a truth that varies; Spearman's
    rank correlation needs predictions that vary as well; where they do not, these are left out."""
    scores = {
        "mae": float(mean_absolute_error(truth, found)),
        "rmse": float(mean_squared_error(truth, found)) ** 0.5,
    }
    if np.ptp(truth) > 0:
        scores["r2"] = float(r2_score(truth, found))
        if np.ptp(found) > 0:
            scores["spearman"] = float(spearmanr(truth, found).statistic)
    return scores
