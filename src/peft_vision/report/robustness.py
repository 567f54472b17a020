"""Effective robustness: accuracy out of distribution beyond what accuracy in distribution predicts
(Taori et al., 2020, arXiv:2007.00644; Miller et al., 2021, arXiv:2107.04649).

beta(id) = inverse(slope * scale(id) + intercept), a least-squares line through the reference models
rho = ood - beta(id)

scale is the probit, the inverse of the standard normal distribution's cdf, or the logit.

A mean over sets compares only runs that were scored on the same sets, and a set only runs that saw the same images.
`comparable` drops the figures that cannot be compared, with a note.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from peft_vision.report.finished import OVER_SETS, RunRecord
from peft_vision.report.options import Transform

LEAST = 3  # different ID accuracies, the fewest for a meaningful line
_NAMED = 3  # runs that a note names

Counts = Mapping[str, int]
"""Image counts by shift: ood/<set>/<shift>, or ood/<set> for a set with a single shift."""


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


def sets_of(run: RunRecord) -> dict[str, Counts]:
    """Return the image counts of the run's shifts, by set."""
    sets: dict[str, dict[str, int]] = {}
    for prefix, count in run.images.items():
        if prefix.startswith("ood/"):
            sets.setdefault(prefix.split("/")[1], {})[prefix] = count
    return sets


def comparable(runs: Sequence[RunRecord]) -> tuple[list[RunRecord], dict[str, Counts], list[str]]:
    """Return `runs` with the figures that can be compared, the sets of these, and a note for whatever was dropped.

    The images and sets that most runs share are kept; of equally frequent ones, the most images or sets.
    """
    notes: list[str] = []
    scored = {run.folder: sets_of(run) for run in runs}
    marks = {run.folder: {name: _mark(run, counts) for name, counts in scored[run.folder].items()} for run in runs}
    sets: dict[str, Counts] = {}
    for name in dict.fromkeys(name for of in scored.values() for name in of):
        versions = Counter(of[name] for of in marks.values() if name in of)
        usual = max(versions, key=lambda mark: (versions[mark], sum(count for _, count, _ in mark), mark))
        sets[name] = next(scored[folder][name] for folder, of in marks.items() if of.get(name) == usual)
        others = [run for run in runs if name in scored[run.folder] and marks[run.folder][name] != usual]
        if others:
            notes.append(f"{name}: {_listed(others)} scored on other images or among other classes, left out there")
            for run in others:
                del scored[run.folder][name]
    collections = Counter(frozenset(of) for of in scored.values() if of)
    usual_sets = max(
        collections, key=lambda found: (collections[found], len(found), sorted(found)), default=frozenset()
    )
    others = [run for run in runs if scored[run.folder] and set(scored[run.folder]) != usual_sets]
    if others:
        notes.append(f"OOD mean and worst are over {', '.join(sorted(usual_sets))}; {_listed(others)} scored on others")
    none = [run for run in runs if not scored[run.folder]]
    if none and sets:
        notes.append(f"{_listed(none)} not scored on any of these sets")
    whole = {run.folder for run in runs if set(scored[run.folder]) == usual_sets}
    kept = [_only(run, set(scored[run.folder]), over_sets=run.folder in whole) for run in runs]
    return kept, sets, notes


def _only(run: RunRecord, names: set[str], *, over_sets: bool) -> RunRecord:
    """Return the run without the figures of other sets than `names`."""
    allowed = names | (set(OVER_SETS) if over_sets else set())

    def remaining(metrics: Mapping[str, float]) -> dict[str, float]:
        return {name: value for name, value in metrics.items() if _set_name(name) in (None, *allowed)}

    curve = {alpha: remaining(metrics) for alpha, metrics in run.curve.items()}
    return replace(run, metrics=remaining(run.metrics), curve=curve)


def _set_name(metric: str) -> str | None:
    """Return cifar10_c for ood/cifar10_c/fog-1/accuracy and for the probe's; None for a metric of no set."""
    parts = metric.removeprefix("probe/").split("/")
    return parts[1] if parts[0] == "ood" else None


def _mark(run: RunRecord, counts: Counts) -> tuple[tuple[str, int, str], ...]:
    """Return a value that is equal for two runs that were scored in the same way on a set."""
    return tuple((shift, count, run.marks.get(shift, "")) for shift, count in sorted(counts.items()))


def _listed(runs: Sequence[RunRecord]) -> str:
    named = ", ".join(run.name for run in runs[:_NAMED])
    more = f" and {len(runs) - _NAMED} more" if runs[_NAMED:] else ""
    return f"{named}{more} {'were' if runs[1:] else 'was'}"
