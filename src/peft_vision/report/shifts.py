"""This module finds which out-of-distribution sets runs were scored on, and which runs may be compared on them.

A mean over sets compares only runs that were scored on the same sets, and a set only runs that saw the same images.
Figures that cannot be compared are dropped here, and noted.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from peft_vision.report.finished import OVER_SETS, RunRecord

_NAMED = 3  # runs that a note names

Counts = Mapping[str, int]
"""Image counts by shift: ood/<set>/<shift>, or ood/<set> for a set with a single shift."""


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
