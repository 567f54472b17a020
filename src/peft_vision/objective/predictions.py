"""This module holds what is kept of a model's prediction for each image, beside the metrics of all images."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from scipy.sparse import csr_matrix
from torch import Tensor

from peft_vision.data.splits import LabelKind

ALL_CLASSES = 100
"""At most so many classes have all their probabilities kept, so that a file stays small."""
LIKELIEST = 5


@dataclass(frozen=True)
class KeptPredictions:
    """The predictions for n images, with the `loss` (n,) of each, by the kind of the labels:

    classes  truth, prediction (n,) int64
    several  truth, prediction (n, C) bool
    numbers  truth, prediction (n, T) float32, in the targets' own units
    masks    confusion (n, C * C): how many pixels of each image have a true class (slow) and a predicted one (fast)

    `classes`: the names of C classes or T targets. `shares`: float32 probabilities of all classes (n, C); or, of more
    than ALL_CLASSES, those of the likeliest ones, likeliest first, which `ranked` (n, LIKELIEST) names."""

    labels_are: LabelKind
    classes: tuple[str, ...]
    loss: np.ndarray
    truth: np.ndarray | None = None
    prediction: np.ndarray | None = None
    shares: np.ndarray | None = None
    ranked: np.ndarray | None = None
    confusion: csr_matrix | None = None

    def __len__(self) -> int:
        return len(self.loss)

    def part(self, start: int, stop: int) -> "KeptPredictions":
        """Return the predictions from place `start` to before `stop`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        cut = {name: value[start:stop] for name, value in values.items() if isinstance(value, np.ndarray | csr_matrix)}
        return replace(self, **cut)

    def matrix(self) -> np.ndarray:
        """Return the confusion matrix int64 (C, C) of images, or of pixels: rows are true classes, columns predicted
        ones. ValueError for several labels and numbers, which have none."""
        count = len(self.classes)
        if self.labels_are == "masks":
            return np.asarray(self.confusion.sum(axis=0)).reshape(count, count).astype(np.int64)
        if self.labels_are != "classes":
            raise ValueError(f"labels that are {self.labels_are} have no confusion matrix")
        pairs = self.truth * count + self.prediction
        return np.bincount(pairs, minlength=count**2).reshape(count, count)

    def overlaps(self) -> tuple[np.ndarray, np.ndarray]:
        """Return, for each image with a mask, the mean over its classes, true or predicted, of intersection / union,
        and the share of its labelled pixels that are right, (n,) each; NaN where no pixel is labelled."""
        count = len(self.classes)
        cells = self.confusion.tocoo()
        true, predicted = np.divmod(cells.col, count)

        def sums(classes: np.ndarray, counted: np.ndarray) -> np.ndarray:
            places = cells.row[counted].astype(np.int64) * count + classes[counted]
            found = np.bincount(places, weights=cells.data[counted], minlength=len(self) * count)
            return found.reshape(len(self), count)

        every, right = np.ones(len(true), dtype=bool), true == predicted
        hits, truth, found = sums(true, right), sums(true, every), sums(predicted, every)
        union = truth + found - hits
        with np.errstate(invalid="ignore"):
            overlap = np.where(union > 0, hits / union, 0).sum(axis=1) / (union > 0).sum(axis=1)
            return overlap, hits.sum(axis=1) / truth.sum(axis=1)

    def faults(self) -> np.ndarray:
        """Return a number (n,) that is higher for a worse prediction: the loss or, with masks, 1 minus the overlap; 0
        where no pixel is labelled."""
        return 1 - np.nan_to_num(self.overlaps()[0], nan=1.0) if self.labels_are == "masks" else self.loss


def likeliest(probabilities: Tensor) -> tuple[Tensor, ...]:
    """Return what is kept of probabilities (B, C): all of them, or those of the likeliest classes, and these."""
    if probabilities.shape[1] <= ALL_CLASSES:
        return (probabilities,)
    found = probabilities.topk(LIKELIEST, dim=1)
    return found.values, found.indices


def arrays(columns: Sequence[Tensor]) -> list[np.ndarray]:
    """Return the columns of a criterion as arrays."""
    return [column.numpy() for column in columns]
