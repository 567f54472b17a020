"""Effective robustness: accuracy out of distribution beyond what accuracy in distribution predicts
(Taori et al., 2020, arXiv:2007.00644; Miller et al., 2021, arXiv:2107.04649).

beta(id) = inverse(slope * scale(id) + intercept), a least-squares line through the reference models
rho = ood - beta(id)

scale is the probit, the inverse of the standard normal distribution's cdf, or the logit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

Transform = Literal["probit", "logit"]
LEAST = 3  # different ID accuracies, the fewest for a meaningful line


@dataclass(frozen=True)
class FittedLine:
    """A line fitted through reference models. `r2`: on the scale; None where all reference models are equal out of
    distribution. `low`, `high`: the range of accuracies in distribution that it was fitted on. `id_images`: how many
    images these are fractions of."""

    transform: Transform
    slope: float
    intercept: float
    r2: float | None
    points: int
    low: float
    high: float
    id_images: int

    def predict(self, id_accuracy: float) -> float:
        """Return the accuracy out of distribution that the reference models predict."""
        scaled = scale(id_accuracy, images=self.id_images, transform=self.transform)
        return unscale(self.slope * scaled + self.intercept, transform=self.transform)


def fit(
    id_accuracies: Sequence[float],
    ood_accuracies: Sequence[float],
    *,
    id_images: int,
    ood_images: int,
    transform: Transform,
) -> FittedLine:
    """Fit the line through a point for each reference model. ValueError for fewer than 3 different ID accuracies."""
    different = len(set(id_accuracies))
    if different < LEAST:
        raise ValueError(f"{different} different ID accuracies, a line takes {LEAST}")
    x = np.array([scale(accuracy, images=id_images, transform=transform) for accuracy in id_accuracies])
    y = np.array([scale(accuracy, images=ood_images, transform=transform) for accuracy in ood_accuracies])
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    intercept = float(y.mean() - slope * x.mean())
    total, rest = float(((y - y.mean()) ** 2).sum()), float(((y - slope * x - intercept) ** 2).sum())
    return FittedLine(
        transform=transform,
        slope=slope,
        intercept=intercept,
        r2=1 - rest / total if len(set(y)) > 1 else None,
        points=len(x),
        low=min(id_accuracies),
        high=max(id_accuracies),
        id_images=id_images,
    )


def scale(accuracy: float, *, images: int, transform: Transform) -> float:
    """Return the probit or logit of an accuracy on `images`; 0 and 1 count as half an image right or wrong, to be
    finite."""
    least = 1 / (2 * images)
    inner = min(max(accuracy, least), 1 - least)
    return NormalDist().inv_cdf(inner) if transform == "probit" else math.log(inner / (1 - inner))


def unscale(scaled: float, *, transform: Transform) -> float:
    """Return the accuracy whose probit or logit is `scaled`."""
    return NormalDist().cdf(scaled) if transform == "probit" else (1 + math.tanh(scaled / 2)) / 2
