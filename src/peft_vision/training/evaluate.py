"""This module predicts the classes of a data split's images and scores the predictions.

The expected calibration error is the mean over 15 equal bins of confidence, weighted by their share of the images, of
|accuracy - confidence| (Guo et al., 2017, arXiv:1706.04599).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peft_vision.core.config import ConfigError
from peft_vision.core.device_memory import SMALLER_PASS, needing_memory, on_device
from peft_vision.core.distributed import World
from peft_vision.core.progress import Progress
from peft_vision.data.images import Source

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Predictions:
    """The predictions for n images, each field (n,): the true `labels`, the `predicted` class, its `confidence` from 0
    to 1, the cross-entropy `loss`, and `in_top5`: whether the true class is among the five likeliest."""

    labels: Tensor
    predicted: Tensor
    confidence: Tensor
    loss: Tensor
    in_top5: Tensor

    def metrics(self) -> dict[str, float]:
        """Return the mean cross-entropy `loss`, and fractions in [0, 1], of which `accuracy_per_class` is the mean of
        the recalls of the classes that occur.

        Raise ConfigError if the loss of any image is not finite.
        """
        unanswered = len(self.loss) - self.loss.isfinite().sum().item()
        if unanswered:
            raise ConfigError(
                f"the model's logits of {unanswered} of {len(self.loss)} images are not finite"
                "\ntry a smaller optimizer.lr, trainer.clip_norm=1 or trainer.precision=fp32"
            )
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


@dataclass(frozen=True)
class InferencePass:
    """The way in which images pass through a model once. `workers`: threads or processes that read them; `world`: the
    processes that share them; `label`: of the progress bar."""

    batch_size: int
    workers: int
    world: World
    autocast: torch.autocast
    label: str


def predict(model: nn.Module, images: Source, inference: InferencePass) -> Predictions:
    """Return the model's predictions for every input of a split."""

    def look(seen: Any, labels: Tensor, _: Tensor) -> tuple[Tensor, ...]:
        return judge(model(seen).float(), labels)

    return Predictions(*columns(model, images, look, inference))


@torch.no_grad()
def columns(
    model: nn.Module,
    source: Source,
    look: Callable[[Any, Tensor, Tensor], tuple[Tensor, ...]],
    inference: InferencePass,
) -> tuple[Tensor, ...]:
    """Return what `look` computes from each input, its label and its place in `source`, with `model` in evaluation
    mode: tensors (n, ...), all in the same order. Each process computes a part, and all get the whole."""
    was_training, world = model.training, inference.world
    model.eval()
    batches = [world.share(batch) for batch in torch.arange(len(source)).split(inference.batch_size * world.size)]
    rows: list[tuple[Tensor, ...]] = []
    room = needing_memory(f"a forward pass of {inference.batch_size} images", world.device, SMALLER_PASS)
    with Progress(label=inference.label, total=len(source), unit="images") as progress, inference.autocast, room:
        inputs = on_device(source.batches(batches, seed=None, workers=inference.workers), world.device)
        for (seen, labels), indices in zip(inputs, batches, strict=True):
            rows.append(look(seen, labels, indices))
            progress.advance(len(labels) * world.size)
    model.train(was_training)
    process_columns = tuple(torch.cat(column).cpu() for column in zip(*rows, strict=True))
    return tuple(torch.cat(column) for column in zip(*world.gather(process_columns), strict=True))


def judge(logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Return the columns of Predictions for one batch of logits (B, C) and labels (B,)."""
    confidence, predicted = logits.softmax(dim=-1).max(dim=-1)
    top = logits.topk(min(5, logits.shape[-1]), dim=-1).indices
    loss = F.cross_entropy(logits, labels, reduction="none")
    return labels, predicted, confidence, loss, (top == labels.unsqueeze(1)).any(dim=1)
