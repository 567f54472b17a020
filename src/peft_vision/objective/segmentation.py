"""This module learns a class for each pixel. All scores come from one confusion matrix over all pixels of all
images."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field, PositiveInt
from scipy.sparse import csr_matrix
from torch import Generator, Tensor
from torch.nn import functional as F

from peft_vision.core.config import HashDefault, component
from peft_vision.data.splits import LabelKind
from peft_vision.objective.base import (
    ClassWeights,
    Metric,
    Objective,
    WeightedClasses,
    checked_losses,
    checked_weights,
)
from peft_vision.objective.predictions import KeptPredictions

IGNORED = 255
"""The label of pixels that neither train nor count."""
MEAN_IOU = Metric("mean_iou")


@component
class Segmentation(Objective):
    """An objective of a class for each pixel. The loss of an image is the mean cross-entropy of its labelled pixels,
    in training weighted by `class_weights`, plus `dice_weight` times the Dice loss: 1 minus the mean over the image's
    classes of 2 |P T| / (|P| + |T|), with probabilities P and truth T (Milletari et al., 2016, arXiv:1606.04797, with
    |.| for the sums of squares there). `stride`: how many pixels apart the windows lie in which whole pictures are
    scored and predicted (data/windows.py); None: what the model sees of a picture at once is scored."""

    labels_are: ClassVar[LabelKind] = "masks"
    dense: ClassVar[bool] = True

    class_weights: ClassWeights
    dice_weight: Annotated[float, Field(ge=0)]
    stride: Annotated[PositiveInt | None, HashDefault(None)]

    @property
    def metric(self) -> Metric:
        return MEAN_IOU

    @property
    def window_stride(self) -> int | None:
        return self.stride

    def criterion(self, classes: Sequence[str]) -> "Pixels":
        checked_weights(self.class_weights, classes, "class_weights")
        return Pixels(len(classes), self.class_weights, self.dice_weight, self.stride)


class Pixels(WeightedClasses):
    """A criterion of logits (B, C, H, W) for labels (B, H, W), of which those equal to `IGNORED` do not count."""

    def __init__(
        self, num_classes: int, class_weights: ClassWeights, dice_weight: float, stride: int | None = None
    ) -> None:
        super().__init__(num_classes, MEAN_IOU, class_weights)
        self.stride = stride
        self._dice_weight = dice_weight

    def loss(self, outputs: Tensor, labels: Tensor, *, label_smoothing: float) -> Tensor:
        losses = self._losses(outputs, labels, label_smoothing, self.weights)
        if self._dice_weight:
            losses = losses + self._dice_weight * dice_losses(outputs.softmax(dim=1), labels)
        return losses.sum()

    def _losses(
        self, outputs: Tensor, labels: Tensor, label_smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """Return the mean cross-entropy over the labelled pixels of each image, (B,); 0 for one without any."""
        losses = F.cross_entropy(
            outputs, labels.long(), ignore_index=IGNORED, label_smoothing=label_smoothing, reduction="none"
        )
        if weights is not None:
            losses = losses * weights[labels.long().clamp(max=self.num_outputs - 1)]
        labelled = (labels != IGNORED).flatten(1).sum(dim=1)
        return losses.flatten(1).sum(dim=1) / labelled.clamp(min=1)

    def made_up_labels(self, count: int, sides: tuple[int, int], generator: Generator) -> Tensor:
        return torch.randint(0, self.num_outputs, (count, *sides), generator=generator, dtype=torch.uint8)

    def judge(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Return the loss (B,) and the confusion matrix (B, C, C) of each image, truth by prediction."""
        predicted = outputs.argmax(dim=1)
        return self._losses(outputs, labels), torch.stack(
            [confusion(*pair, self.num_outputs) for pair in zip(labels, predicted, strict=True)]
        )

    def judge_whole(self, outputs: Tensor, labels: Tensor, masks: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Judge as `judge` does, but count the pixels of each image's own mask (H0, W0), to whose size the logits are
        resampled; the loss is that at the model's size."""
        matrices = []
        for logits, mask in zip(outputs, masks, strict=True):
            resampled = F.interpolate(logits[None], size=mask.shape, mode="bilinear", align_corners=False)
            matrices.append(confusion(mask.to(outputs.device), resampled[0].argmax(dim=0), self.num_outputs))
        return self._losses(outputs, labels), torch.stack(matrices)

    def predictions(self, columns: Sequence[Tensor], classes: Sequence[str]) -> KeptPredictions:
        loss, matrices = columns
        confused = csr_matrix(matrices.flatten(1).numpy())
        return KeptPredictions("masks", tuple(classes), loss.numpy(), confusion=confused)

    def scores(self, columns: Sequence[Tensor]) -> dict[str, float]:
        losses, matrices = columns
        return {**overlap_scores(matrices.sum(dim=0)), "loss": checked_losses(losses).double().mean().item()}


def confusion(labels: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """Return the confusion matrix (C, C) int64 of pixels with the given labels, without the ignored ones: rows are true
    classes, columns predicted ones."""
    counted = labels != IGNORED
    pairs = labels[counted].long() * num_classes + predicted[counted].long()
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


def overlap_scores(matrix: Tensor) -> dict[str, float]:
    """Return the scores of a confusion matrix (C, C), fractions in [0, 1]: `mean_iou`, the mean over the classes that
    occur in truth or prediction of intersection / union; `mean_accuracy`, the mean of the recalls of the classes that
    occur; `pixel_accuracy`. Nothing is returned where no pixel is labelled."""
    hits, truth, found = matrix.diagonal().double(), matrix.sum(dim=1).double(), matrix.sum(dim=0).double()
    union = truth + found - hits
    if not truth.sum():
        return {}
    return {
        MEAN_IOU.name: (hits[union > 0] / union[union > 0]).mean().item(),
        "mean_accuracy": (hits[truth > 0] / truth[truth > 0]).mean().item(),
        "pixel_accuracy": (hits.sum() / truth.sum()).item(),
    }


def dice_losses(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the Dice loss (B,) of probabilities (B, C, H, W), over the classes that occur in each image; 0 for an
    image without a labelled pixel."""
    counted = (labels != IGNORED).unsqueeze(1)
    truth = F.one_hot(torch.where(labels == IGNORED, 0, labels.long()), probabilities.shape[1]).movedim(-1, 1)
    truth, shares = truth * counted, probabilities * counted
    overlap = (shares * truth).flatten(2).sum(dim=2)
    sizes = (shares.square() + truth).flatten(2).sum(dim=2)
    occurs = truth.flatten(2).any(dim=2)
    dice = (1 - 2 * overlap / sizes.clamp(min=1e-6)) * occurs
    return dice.sum(dim=1) / occurs.sum(dim=1).clamp(min=1)
