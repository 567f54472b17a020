"""This module checks whether the images that were scored are those that a command asks for.

A mark stands for a set's options. If it differs only by the location of files, the images themselves are compared.
"""

from collections.abc import Iterable, Mapping
from statistics import fmean

from peft_vision.core.config import hashed_fields, saved_name
from peft_vision.core.identity import digest, hashed, located
from peft_vision.models.adapter import read_adapter
from peft_vision.objective.base import ACCURACY, Metric
from peft_vision.ood.base import OOD
from peft_vision.ood.match import opened
from peft_vision.runs.experiment import Experiment
from peft_vision.runs.run_records import ScoredSplit


def marks_of(ood: OOD) -> dict[str, str]:
    """Return two digests for the entries of a record: `mark`, of the set's options, and `kind`, the same without the
    locations of files."""
    return {"mark": digest(hashed(located(ood))), "kind": digest(hashed(ood, places=False))}


def current(experiment: Experiment, splits: Mapping[str, ScoredSplit]) -> dict[str, ScoredSplit]:
    """Return the entries of `splits` that are of the images asked for, and those of sets that are not asked for."""
    kept: set[str] = set()
    for name, entries in _by_set(splits).items():
        kept |= _current(experiment, name, entries) if name in experiment.ood else entries.keys()
    return {split: entry for split, entry in splits.items() if split in kept}


def _by_set(splits: Mapping[str, ScoredSplit]) -> dict[str, dict[str, ScoredSplit]]:
    found: dict[str, dict[str, ScoredSplit]] = {}
    for split, entry in splits.items():
        found.setdefault(split.split("/")[0], {})[split] = entry
    return found


def _current(experiment: Experiment, name: str, entries: Mapping[str, ScoredSplit]) -> set[str]:
    """Return the splits of one set whose entries are of the images asked for."""
    ood = experiment.ood[name]
    now = marks_of(ood)
    # version 0.1.0 hashed the values as they were written, wherever the command was given
    first = digest({"_target_": saved_name(type(ood).__qualname__), **hashed_fields(type(ood), vars(ood))})
    kept = {split for split, entry in entries.items() if entry.mark == now["mark"]}
    moved = {
        split: entry
        for split, entry in entries.items()
        # if some pictures were corrupt, the fingerprint is not known without reading all of them
        if split not in kept and not entry.corrupt_images_skipped and (entry.mark == first or entry.kind == now["kind"])
    }
    return kept | (_on_equal_images(experiment, name, moved) if moved else set())


def _on_equal_images(experiment: Experiment, name: str, entries: Mapping[str, ScoredSplit]) -> set[str]:
    recipe = read_adapter(experiment.run.folder / "adapter.safetensors").recipe
    shifts = opened(experiment.ood[name], name, classes=recipe.classes, seen=())
    found = {shift: matched.labelled.digest() for shift, matched in shifts.items()}
    return {split for split, entry in entries.items() if found.get(split) == entry.fingerprint}


def summarised(
    scores: Mapping[str, Mapping[str, float]], images: Mapping[str, int], metric: Metric = ACCURACY
) -> dict[str, float]:
    """Return the metrics of shifts, sets and all sets. `scores` and numbers of `images` are by shift: `set`, or
    `set/shift`; `metric`: that of the run's objective, of which the worst shift is told, and where it is accuracy that
    of all images of a set."""
    sets: dict[str, list[str]] = {}
    for shift in scores:
        sets.setdefault(shift.split("/")[0], []).append(shift)
    metrics: dict[str, float] = {}
    for name, shifts in sets.items():
        if shifts != [name]:
            metrics |= {f"ood/{shift}/{key}": value for shift in shifts for key, value in scores[shift].items()}
        means = _means(scores[shift] for shift in shifts)
        metrics |= {f"ood/{name}/{key}": value for key, value in means.items()}
        if shifts != [name]:
            metrics[f"ood/{name}/worst/{metric.name}"] = _worst((scores[shift] for shift in shifts), metric)
        if shifts != [name] and metric == ACCURACY:
            right = sum(scores[shift]["accuracy"] * images[shift] for shift in shifts)
            metrics[f"ood/{name}/pooled/accuracy"] = right / sum(images[shift] for shift in shifts)
    of_sets = [_means(scores[shift] for shift in shifts) for shifts in sets.values()]
    metrics |= {f"ood/mean/{key}": value for key, value in _means(of_sets).items()}
    return {**metrics, f"ood/worst/{metric.name}": _worst(scores.values(), metric)}


def _worst(rows: Iterable[Mapping[str, float]], metric: Metric) -> float:
    return min((row[metric.name] for row in rows), key=metric.rank)


def _means(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the means of the metrics that every row has: not all images define each of them."""
    rows = list(rows)
    return {key: fmean(row[key] for row in rows) for key in rows[0] if all(key in row for row in rows)}
