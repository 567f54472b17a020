"""This module learns several classes a picture: a sigmoid and a binary cross-entropy for each class."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from torch import Generator, Tensor
from torch.nn import functional as F

from peft_vision.core.config import component
from peft_vision.data.splits import LabelKind
from peft_vision.objective.base import (
    ClassWeights,
    Criterion,
    Metric,
    Objective,
    checked_losses,
    checked_weights,
)
from peft_vision.objective.predictions import KeptPredictions, arrays, likeliest

MEAN_AP = Metric("mean_average_precision")


@component
class MultiLabel(Objective):
    """An objective of several classes a picture, chosen by the mean over the classes of the average precision.

    `positive_weights`: how much more the presence of each class counts in training than its absence; balanced: absent /
    present training images. `focal_gamma`: as for one class a picture, for each class by itself. `threshold`: the
    probability from which a class counts as present, or validation: the one with the highest micro F1 there."""

    labels_are: ClassVar[LabelKind] = "several"

    positive_weights: ClassWeights
    focal_gamma: Annotated[float, Field(ge=0)]
    threshold: Annotated[float, Field(gt=0, lt=1)] | Literal["validation"]

    @property
    def metric(self) -> Metric:
        return MEAN_AP

    def criterion(self, classes: Sequence[str]) -> "SeveralClasses":
        checked_weights(self.positive_weights, classes, "positive_weights")
        return SeveralClasses(len(classes), self)


class SeveralClasses(Criterion):
    """A criterion of logits (B, C) for labels (B, C) of 0 and 1. Its buffer `threshold` is saved with the model."""

    def __init__(self, num_classes: int, objective: MultiLabel) -> None:
        super().__init__(num_classes, MEAN_AP)
        self._weights, self._gamma = objective.positive_weights, objective.focal_gamma
        self.learns = self._weights == "balanced"
        self.chooses = objective.threshold == "validation"
        weights = torch.tensor(self._weights) if isinstance(self._weights, tuple) else None
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("threshold", torch.tensor(0.5 if self.chooses else objective.threshold))

    def answers(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()

    def fit(self, labels: Tensor) -> None:
        if self.learns:
            present = labels.float().sum(dim=0)
            self.weights = (len(labels) - present) / present.clamp(min=1)

    def fit_validation(self, columns: Sequence[Tensor]) -> None:
        """Choose the threshold with the highest micro F1, of equal ones the largest."""
        if self.chooses:
            _, probabilities, labels = columns
            self.threshold.fill_(best_threshold(labels.flatten(), probabilities.flatten()))

    def loss(self, outputs: Tensor, labels: Tensor, *, label_smoothing: float) -> Tensor:
        return self._losses(outputs, labels, label_smoothing, self.weights).sum()

    def _losses(
        self, outputs: Tensor, labels: Tensor, label_smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """Return the mean over the classes for each image, (B,)."""
        goal = labels.to(outputs.dtype) * (1 - label_smoothing) + label_smoothing / 2
        losses = F.binary_cross_entropy_with_logits(outputs, goal, pos_weight=weights, reduction="none")
        if self._gamma:
            probabilities = outputs.sigmoid()
            certain = torch.where(labels > 0, probabilities, 1 - probabilities)
            losses = losses * (1 - certain) ** self._gamma
        return losses.mean(dim=1)

    def made_up_labels(self, count: int, sides: tuple[int, int], generator: Generator) -> Tensor:
        return torch.randint(0, 2, (count, self.num_outputs), generator=generator, dtype=torch.uint8)

    def judge(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Return the loss (B,), the probabilities (B, C) and the labels (B, C)."""
        return self._losses(outputs, labels), outputs.sigmoid(), labels

    def predictions(self, columns: Sequence[Tensor], classes: Sequence[str]) -> KeptPredictions:
        loss, probabilities, labels = columns
        present = probabilities >= self.threshold.cpu()
        parts = arrays([loss, labels > 0, present, *likeliest(probabilities)])
        return KeptPredictions("several", tuple(classes), *parts)

    def scores(self, columns: Sequence[Tensor]) -> dict[str, float]:
        losses, probabilities, labels = columns
        mean_loss = checked_losses(losses).double().mean().item()
        truth, shares = labels.numpy(), probabilities.double().numpy()
        found = shares >= float(self.threshold)
        return {
            **_over_classes(truth, shares),
            "f1_micro": float(f1_score(truth, found, average="micro", zero_division=0)),
            "f1_macro": float(f1_score(truth, found, average="macro", zero_division=0)),
            "threshold": float(self.threshold),
            "loss": mean_loss,
        }


def _over_classes(truth: np.ndarray, shares: np.ndarray) -> dict[str, float]:
    """Return means over the classes for which they are defined: average precision over those with a picture, the area
    under the ROC curve over those that some pictures have and others lack. A mean over no class is left out."""
    present = truth.sum(axis=0)
    some, both = np.flatnonzero(present > 0), np.flatnonzero((present > 0) & (present < len(truth)))
    precision = [average_precision_score(truth[:, index], shares[:, index]) for index in some]
    areas = [roc_auc_score(truth[:, index], shares[:, index]) for index in both]
    found = {MEAN_AP.name: precision, "auroc": areas}
    return {name: float(np.mean(values)) for name, values in found.items() if values}


def best_threshold(labels: Tensor, probabilities: Tensor) -> float:
    """Return the probability from which counting as present gives the highest F1 over all pairs (n,) of a picture and a
    class; of equal ones the largest; 0.5 where nothing is present."""
    order = probabilities.argsort(descending=True, stable=True)
    sorted_shares, hits = probabilities[order], labels[order].double().cumsum(0)
    count = torch.arange(1, len(order) + 1, dtype=torch.double)
    f1 = 2 * hits / (count + hits[-1])
    last = torch.ones(len(order), dtype=torch.bool)
    last[:-1] = sorted_shares[1:] < sorted_shares[:-1]  # pairs of one probability are counted together
    f1 = torch.where(last, f1, -1.0)
    place = int(f1.argmax())
    if not hits[-1]:
        return 0.5
    return float(sorted_shares[place])
