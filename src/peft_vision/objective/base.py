"""This module defines an objective: what a training learns from the labels of its images, and how a model is judged.

An `Objective` is a config; its `Criterion` is the module in a model that holds what the objective learns from the
training labels, such as the mean of the targets, maps the head's outputs to predictions, and computes loss and scores.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor, nn

from peft_vision.core.config import ConfigError, component
from peft_vision.data.splits import LabelKind
from peft_vision.head.base import Head
from peft_vision.objective.predictions import KeptPredictions

_LABELS = {
    "classes": "one class a picture (objective=single_label)",
    "several": "several classes a picture (objective=multi_label)",
    "numbers": "numbers (objective=regression)",
    "masks": "a class for each pixel (objective=segmentation)",
}


@dataclass(frozen=True)
class Metric:
    """The metric by which everything is chosen: epochs, settings, trials and methods. `is_fraction`: whether it is
    shown in percent."""

    name: str
    higher_is_better: bool = True
    is_fraction: bool = True

    def rank(self, value: float) -> float:
        """Return a number that is higher for a better value."""
        return value if self.higher_is_better else -value

    @property
    def words(self) -> str:
        """Return the metric's name in words."""
        return self.name.replace("_", " ")

    @property
    def unit(self) -> str:
        """Return what follows the name at the axis of a picture: ` (%)`, or nothing."""
        return " (%)" if self.is_fraction else ""

    @property
    def scale(self) -> float:
        """Return the factor between a value and the number that is shown: 100, or 1."""
        return 100.0 if self.is_fraction else 1.0

    def number(self, value: float) -> str:
        """Return a value, or a difference of values, as a number without its unit."""
        return f"{100 * value:.2f}" if self.is_fraction else f"{value:.4g}"

    def shown(self, value: float) -> str:
        """Return a value as people read it."""
        return f"{self.number(value)} %" if self.is_fraction else self.number(value)


ACCURACY = Metric("accuracy")
"""The metric of runs that learn one class a picture."""
DIGITS = 12  # beyond these, equal means differ by the order of summation


@dataclass(frozen=True, order=True)
class Merit:
    """How good something is on the images that choose, in the order in which everything is chosen: by the `rank` of the
    metric, and of equal ranks by the mean loss, of which `ease` is the negative; minus infinity where it is unknown.
    Python's `max` of several takes the first of those that are equal in both."""

    rank: float
    ease: float

    @classmethod
    def of(cls, rank: float, loss: float | None) -> "Merit":
        """Return the merit for a mean loss, which may be unknown or NaN."""
        return cls(rank, -math.inf if loss is None or math.isnan(loss) else -loss)

    @classmethod
    def mean(cls, merits: Iterable["Merit"]) -> "Merit":
        """Return the mean of merits, in so many digits that the order of summation decides nothing."""
        found = list(merits)
        rank, ease = fmean(merit.rank for merit in found), fmean(merit.ease for merit in found)
        return cls(round(rank, DIGITS), round(ease, DIGITS))


def rule_in_words(metric: Metric, then: str) -> str:
    """Return the rule in words by which the best on validation is chosen. `then`: what comes first where metric and
    loss are equal."""
    best = "highest" if metric.higher_is_better else "lowest"
    return f"{best} validation {metric.words}, of equal ones the lowest loss, then the {then}"


NOTHING_TO_CHOOSE_BY = "no validation images choose the threshold, which stays 0.5; objective.threshold=0.3 sets it"


class Criterion(nn.Module, ABC):
    """A module that ends a model: it maps the head's outputs to predictions and judges them. Its persistent buffers are
    saved with what was tuned. `num_outputs`: of the head; `metric`: by which everything is chosen; `learns`: whether
    `fit` takes anything from the training labels, which for masks have to be read; `chooses`: whether `fit_validation`
    has anything to choose; `stride`: how many pixels apart the windows lie in which pictures are scored, or None."""

    learns = False
    chooses = False
    stride: int | None = None

    def __init__(self, num_outputs: int, metric: Metric) -> None:
        super().__init__()
        self.num_outputs = num_outputs
        self.metric = metric

    def forward(self, outputs: Tensor) -> Tensor:
        """Return the model's outputs, of the shape of the head's: logits, or numbers in the targets' own unit."""
        return outputs

    def answers(self, outputs: Tensor) -> Tensor:
        """Return what the model's outputs (n, C) say to people: by default these; else probabilities."""
        return outputs

    def fit(self, labels: Tensor) -> None:
        """Learn from the labels of the training images; by default nothing."""

    def fit_validation(self, columns: Sequence[Tensor]) -> None:
        """Learn from what `judge` returned for the validation images, once training is over; by default nothing."""

    @abstractmethod
    def loss(self, outputs: Tensor, labels: Tensor, *, label_smoothing: float) -> Tensor:
        """Return the sum over the images of a batch of each one's loss, from the model's outputs in fp32."""

    @abstractmethod
    def judge(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Return columns, (B, ...) each, of what `scores` needs of a batch; the first has the loss of each image."""

    def kept(self, outputs: Tensor) -> tuple[Tensor, ...]:
        """Return columns, (B, ...) each, of what is kept of a batch's predictions and is not in those of `judge`; by
        default none."""
        return ()

    def predictions(self, columns: Sequence[Tensor], classes: Sequence[str]) -> KeptPredictions | None:
        """Return the predictions in the columns of `judge` and `kept`, concatenated, of classes or targets with these
        names; by default None, and none are kept."""
        return None

    @abstractmethod
    def made_up_labels(self, count: int, sides: tuple[int, int], generator: Generator) -> Tensor:
        """Return random labels of so many images of this height and width, to measure a step with."""

    @abstractmethod
    def scores(self, columns: Sequence[Tensor]) -> dict[str, float]:
        """Return the metrics of all images from the columns that `judge` returned, concatenated, the chosen one and the
        mean `loss` among them; those of `kept` may follow. A metric that these images do not define is left out."""


@component
class Objective(ABC):
    """The task that a model learns from labels, and how it is judged. `labels_are`: the labels that it learns from;
    `dense`: whether it predicts each pixel; `is_plain`: whether the loss is the plain cross-entropy of one class a
    picture, which solvers minimise."""

    labels_are: ClassVar[LabelKind]
    dense: ClassVar[bool] = False

    @property
    def is_plain(self) -> bool:
        return False

    @property
    @abstractmethod
    def metric(self) -> Metric:
        """Return the metric by which everything is chosen."""

    @abstractmethod
    def criterion(self, classes: Sequence[str]) -> Criterion:
        """Return a fresh criterion for these classes or targets, of which the head has an output each."""

    def check_labels(self, found: LabelKind) -> None:
        """Raise ConfigError if a data set has other labels."""
        if found != self.labels_are:
            raise ConfigError(f"objective: it learns {_LABELS[self.labels_are]}, and the data have {_LABELS[found]}")

    def check_head(self, head: Head) -> None:
        """Raise ConfigError for a head that predicts pixels where pictures are learned, or the other way round."""
        if self.dense and head.reads == "features":
            heads = "head=segment_linear, multi_linear or setr_pup"
            raise ConfigError(f"head: it predicts one thing a picture; objective=segmentation takes {heads}")
        if not self.dense and head.reads != "features":
            raise ConfigError("head: it predicts each pixel; it takes objective=segmentation, else use head=linear")

    @property
    def window_stride(self) -> int | None:
        """Return how many pixels apart the windows lie in which pictures are scored; None where they are not."""
        return None

    def check_resize(self, resize: str) -> None:
        """Raise ConfigError if windows should slide over pictures that are squashed to the size of one."""
        if self.window_stride is not None and resize == "squash":
            raise ConfigError(
                f"objective.stride: got {self.window_stride}, and data.resize=squash makes one window of each picture\n"
                "set data.resize=crop, and data.crop to the share of the short side that a window takes"
            )

    def check_smoothing(self, label_smoothing: float) -> None:
        """Raise ConfigError if labels are to be smoothed and have no classes."""
        if label_smoothing and self.labels_are == "numbers":
            raise ConfigError(f"trainer.label_smoothing: got {label_smoothing:g}, and numbers have no classes; set 0")


def checked_losses(losses: Tensor) -> Tensor:
    """Return the losses of all images (n,). ConfigError if one of them is not finite."""
    unanswered = len(losses) - losses.isfinite().sum().item()
    if unanswered:
        raise ConfigError(
            f"the model's logits of {unanswered} of {len(losses)} images are not finite"
            "\ntry a smaller optimizer.lr, trainer.clip_norm=1 or trainer.precision=fp32"
        )
    return losses


ClassWeights = Literal["balanced"] | tuple[float, ...] | None
"""Weights of classes in the loss of training images: given, `balanced` (inverse to their frequency there, 1 on average
over the labels), or None for equal ones."""


def checked_weights(weights: ClassWeights, classes: Sequence[str], key: str) -> None:
    """Raise ConfigError unless given weights are positive and as many as the classes."""
    if not isinstance(weights, tuple):
        return
    if len(weights) != len(classes):
        raise ConfigError(f"objective.{key}: {len(weights)} weights for {len(classes)} classes")
    if wrong := [weight for weight in weights if not 0 < weight < float("inf")]:
        raise ConfigError(f"objective.{key}: got {wrong[0]:g}, should be above 0")


class WeightedClasses(Criterion):
    """A criterion whose loss has a weight for each class, `weights` (C,), or None; labels that are no class are left
    out of the counts from which balanced ones are made."""

    def __init__(self, num_classes: int, metric: Metric, class_weights: ClassWeights) -> None:
        super().__init__(num_classes, metric)
        self.learns = class_weights == "balanced"
        weights = torch.tensor(class_weights) if isinstance(class_weights, tuple) else None
        self.register_buffer("weights", weights, persistent=False)

    def fit(self, labels: Tensor) -> None:
        """Balance the classes by the training labels, (n,) or (n, H, W)."""
        if self.learns:
            counts = torch.bincount(labels.flatten().cpu().long(), minlength=self.num_outputs)[: self.num_outputs]
            weights = counts.sum() / ((counts > 0).sum() * counts.clamp(min=1))
            self.weights = weights.to(labels.device, torch.float32)


def ranked(metrics: Mapping[str, float], split: str, metric: Metric) -> float | None:
    """Return the rank of a split's chosen metric, higher for better ones; None if it was not scored or not defined."""
    key = f"{split}/{metric.name}"
    return metric.rank(metrics[key]) if key in metrics else None
