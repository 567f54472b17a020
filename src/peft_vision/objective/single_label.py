"""This module learns one class a picture, by cross-entropy.

The expected calibration error is the mean over 15 equal bins of confidence, weighted by their share of the images, of
|accuracy - confidence| (Guo et al., 2017, arXiv:1706.04599).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional as F

from peft_vision.core.config import HashDefault, component
from peft_vision.data.splits import LabelKind
from peft_vision.objective.base import (
    ACCURACY,
    ClassWeights,
    Metric,
    Objective,
    WeightedClasses,
    checked_losses,
    checked_weights,
)
from peft_vision.objective.predictions import KeptPredictions, arrays, likeliest

CALIBRATION_BINS = 15
ONE_CLASS = {"_target_": "SingleLabel"}
"""The config of the objective that every run had before there were others: with it, files and identities say nothing
of an objective."""


@component
class SingleLabel(Objective):
    """An objective of one class a picture. `class_weights`: of the loss, which is then still the mean over the images;
    `focal_gamma`: the exponent by which the loss of images that are predicted well is reduced, (1 - p)^gamma times the
    cross-entropy (Lin et al., 2017, arXiv:1708.02002, equation 4); 0: plain cross-entropy."""

    labels_are: ClassVar[LabelKind] = "classes"

    class_weights: Annotated[ClassWeights, HashDefault(None)]
    focal_gamma: Annotated[Annotated[float, Field(ge=0)], HashDefault(0.0)]

    @property
    def metric(self) -> Metric:
        return ACCURACY

    @property
    def is_plain(self) -> bool:
        return self.class_weights is None and not self.focal_gamma

    def criterion(self, classes: Sequence[str]) -> "OneClass":
        checked_weights(self.class_weights, classes, "class_weights")
        return OneClass(len(classes), self.class_weights, self.focal_gamma)


class OneClass(WeightedClasses):
    """A criterion of logits (B, C) for labels (B,) int64; its loss also takes shares of the classes, (B, C) in fp32,
    whose loss is the mean, by these shares, of the losses of the classes."""

    def __init__(self, num_classes: int, class_weights: ClassWeights = None, focal_gamma: float = 0.0) -> None:
        super().__init__(num_classes, ACCURACY, class_weights)
        self.focal_gamma = focal_gamma

    def answers(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(dim=1)

    def loss(self, outputs: Tensor, labels: Tensor, *, label_smoothing: float) -> Tensor:
        if self.weights is None and not self.focal_gamma:
            return F.cross_entropy(outputs, labels, label_smoothing=label_smoothing, reduction="sum")
        if labels.ndim == 2:
            return (self._each(outputs, label_smoothing) * labels).sum()
        losses = F.cross_entropy(outputs, labels, label_smoothing=label_smoothing, reduction="none")
        if self.focal_gamma:
            certain = outputs.softmax(dim=1).gather(1, labels.unsqueeze(1)).squeeze(1)
            losses = losses * (1 - certain).clamp(min=0) ** self.focal_gamma
        return (losses if self.weights is None else losses * self.weights[labels]).sum()

    def _each(self, outputs: Tensor, label_smoothing: float) -> Tensor:
        """Return the loss (B, C) that each image would have if it were of each class."""
        logs = outputs.log_softmax(dim=1)
        losses = -(1 - label_smoothing) * logs - label_smoothing * logs.mean(dim=1, keepdim=True)
        if self.focal_gamma:
            losses = losses * (1 - logs.exp()).clamp(min=0) ** self.focal_gamma
        return losses if self.weights is None else losses * self.weights

    def made_up_labels(self, count: int, sides: tuple[int, int], generator: Generator) -> Tensor:
        return torch.randint(0, self.num_outputs, (count,), generator=generator)

    def judge(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        return judge(outputs, labels)

    def kept(self, outputs: Tensor) -> tuple[Tensor, ...]:
        """Return the probabilities (B, C), or of many classes those of the likeliest ones, and these."""
        return likeliest(self.answers(outputs))

    def predictions(self, columns: Sequence[Tensor], classes: Sequence[str]) -> KeptPredictions:
        loss, labels, predicted, _, _, *shares = arrays(columns)
        return KeptPredictions("classes", tuple(classes), loss, labels, predicted, *shares)

    def scores(self, columns: Sequence[Tensor]) -> dict[str, float]:
        return Predictions(*columns[: len(fields(Predictions))]).metrics()


@dataclass(frozen=True)
class Predictions:
    """The predictions for n images, each field (n,): the cross-entropy `loss`, the true `labels`, the `predicted`
    class, its `confidence` from 0 to 1, and `in_top5`: whether the true class is among the five likeliest."""

    loss: Tensor
    labels: Tensor
    predicted: Tensor
    confidence: Tensor
    in_top5: Tensor

    def metrics(self) -> dict[str, float]:
        """Return the mean cross-entropy `loss`, and fractions in [0, 1], of which `accuracy_per_class` is the mean of
        the recalls of the classes that occur.

        Raise ConfigError if the loss of any image is not finite.
        """
        losses = checked_losses(self.loss)
        correct = (self.predicted == self.labels).double()
        images_per_class = torch.bincount(self.labels)
        correct_per_class = torch.bincount(self.labels, weights=correct)
        occurs = images_per_class > 0
        return {
            "accuracy": correct.mean().item(),
            "accuracy_top5": self.in_top5.double().mean().item(),
            "accuracy_per_class": (correct_per_class[occurs] / images_per_class[occurs]).mean().item(),
            "calibration_error": self._calibration_error(correct),
            "loss": losses.double().mean().item(),
        }

    def _calibration_error(self, correct: Tensor) -> float:
        bins = (self.confidence * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
        gap = torch.bincount(bins, weights=correct - self.confidence.double(), minlength=CALIBRATION_BINS)
        return (gap.abs().sum() / len(correct)).item()


def judge(logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Return the columns of Predictions for one batch of logits (B, C) and labels (B,)."""
    confidence, predicted = logits.softmax(dim=-1).max(dim=-1)
    top = logits.topk(min(5, logits.shape[-1]), dim=-1).indices
    loss = F.cross_entropy(logits, labels, reduction="none")
    return loss, labels, predicted, confidence, (top == labels.unsqueeze(1)).any(dim=1)
