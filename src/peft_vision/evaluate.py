"""Predictions of a model on a data split, and what they are worth.

Expected calibration error: the mean over 15 equal bins of confidence, weighted by their share of the images, of
|accuracy - confidence| (Guo et al., 2017, arXiv:1706.04599).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peft_vision.data.images import Source
from peft_vision.distributed import World
from peft_vision.progress import Progress

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Predictions:
    """For n images, each (n,): true `labels`, the `predicted` class, its `confidence` in [0, 1], the cross-entropy
    `loss`, and `in_top5`: whether the true class is among the five likeliest."""

    labels: Tensor
    predicted: Tensor
    confidence: Tensor
    loss: Tensor
    in_top5: Tensor

    def metrics(self) -> dict[str, float]:
        """Shares in [0, 1]; `accuracy_per_class` is the mean of the recalls of the classes that occur."""
        correct = (self.predicted == self.labels).double()
        images_per_class = torch.bincount(self.labels)
        correct_per_class = torch.bincount(self.labels, weights=correct)
        occurs = images_per_class > 0
        return {
            "accuracy": correct.mean().item(),
            "accuracy_top5": self.in_top5.double().mean().item(),
            "accuracy_per_class": (correct_per_class[occurs] / images_per_class[occurs]).mean().item(),
            "calibration_error": self._calibration_error(correct),
            "loss": self.loss.double().mean().item(),
        }

    def _calibration_error(self, correct: Tensor) -> float:
        bins = (self.confidence * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
        gap = torch.bincount(bins, weights=correct - self.confidence.double(), minlength=CALIBRATION_BINS)
        return (gap.abs().sum() / len(correct)).item()


@torch.no_grad()
def predict(
    model: nn.Module,
    images: Source,
    *,
    batch_size: int,
    workers: int,
    world: World,
    autocast: torch.autocast,
    label: str,
) -> Predictions:
    """Every input of a split once, in evaluation mode; each process computes a part, all get the whole."""
    was_training = model.training
    model.eval()
    batches = [world.share(batch) for batch in torch.arange(len(images)).split(batch_size * world.size)]
    columns: list[tuple[Tensor, ...]] = []
    with Progress(label=label, total=len(images), unit="images") as progress, autocast:
        for pixels, labels in images.batches(batches, seed=None, workers=workers):
            logits = model(pixels.to(world.device, non_blocking=True)).float()
            columns.append(judge(logits, labels.to(world.device, non_blocking=True)))
            progress.advance(len(labels) * world.size)
    model.train(was_training)
    mine = tuple(torch.cat(column).cpu() for column in zip(*columns, strict=True))
    shares = world.gather(mine)
    return Predictions(*(torch.cat(column) for column in zip(*shares, strict=True)))


def judge(logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """The columns of Predictions, for one batch of logits (B, C)."""
    confidence, predicted = logits.softmax(dim=-1).max(dim=-1)
    top = logits.topk(min(5, logits.shape[-1]), dim=-1).indices
    loss = F.cross_entropy(logits, labels, reduction="none")
    return labels, predicted, confidence, loss, (top == labels.unsqueeze(1)).any(dim=1)
