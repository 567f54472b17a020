"""This module scores a finished run out of distribution, each image once for each model; earlier scores are kept.

The run's ood.json holds `splits`: by `val`, `test`, `set` or `set/shift`, the scores of each model there; and, for the
sets that the last command asked for, `metrics` (see `marks.summarised`), `images` and the `interpolation`.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from peft_vision.core.config import ConfigError
from peft_vision.core.distributed import World
from peft_vision.data.base import SPLITS
from peft_vision.data.images import Images
from peft_vision.data.windows import in_windows
from peft_vision.features.fill import tabulated
from peft_vision.models.model import Model
from peft_vision.objective.base import Merit, rule_in_words
from peft_vision.ood.base import OOD
from peft_vision.ood.match import opened
from peft_vision.runs.experiment import Experiment, open_store
from peft_vision.runs.run_records import ID_SPLITS, InterpolationRecord, Result, ScoredSplit, ShiftScores
from peft_vision.shift.marks import current, marks_of, summarised
from peft_vision.shift.models import FINAL, PROBE, Models, at, score

_log = logging.getLogger("peft_vision")
NO_VALIDATION = "interpolation: no validation images to choose alpha by; set data.val_fraction"


def score_shifts(experiment: Experiment, result: Result, world: World) -> ShiftScores | None:
    """Return the record, brought up to date, or None if nothing was asked for. Every process computes, and the main one
    writes."""
    if not _asked(experiment):
        return None
    if experiment.interpolation.alphas and not result.parameters.method:
        _log.info("%-9s %s tunes a head alone: there is nothing to interpolate", "ood", experiment.choices["method"])
    if any(name.startswith("probe/") for name in result.metrics) and not experiment.run.probe.is_file():
        _log.warning("%-9s %s is gone; the head that was fitted first is left out", "ood", experiment.run.probe)
    record, due = _remaining(experiment, result, world.agree(experiment.run.read_ood()))
    wanted = _wanted(experiment, result)
    if due:
        scorer = _Scorer(experiment, result, world, record, wanted)
        scorer.score_id([split for split in due if split in ID_SPLITS])
        for name in due:
            if name in experiment.ood:
                scorer.score_set(name, experiment.ood[name])
    record = _summed_up(record, experiment, wanted)
    if world.is_main:
        experiment.run.write_ood(record)
    return record


def is_scored(experiment: Experiment, result: Result) -> bool:
    """Return whether the record is already what `score_shifts` would make it."""
    if not _asked(experiment):
        return True
    before = experiment.run.read_ood()
    record, due = _remaining(experiment, result, before)
    return not due and before == _summed_up(record, experiment, _wanted(experiment, result))


def _asked(experiment: Experiment) -> bool:
    """Return whether sets or interpolation are asked for; False while settings are tuned, which reads no test image."""
    return experiment.data.stage != "tune" and bool(experiment.ood or experiment.interpolation.alphas)


def _remaining(experiment: Experiment, result: Result, before: ShiftScores | None) -> tuple[ShiftScores, list[str]]:
    """Return the record without entries whose images are no longer those asked for, and the splits and sets left to
    score."""
    record = before or ShiftScores(splits={})
    wanted = _wanted(experiment, result)
    record = record.model_copy(update={"splits": current(experiment, record.splits)})
    due = [split for split in _id_splits(wanted) if not wanted[split] <= _scored(record, split)]
    return record, due + [name for name in experiment.ood if not _is_done(record, name, wanted)]


class _Scorer:
    """A scorer that shows the images of splits and sets to the models of one run."""

    def __init__(
        self,
        experiment: Experiment,
        result: Result,
        world: World,
        record: ShiftScores,
        wanted: Mapping[str, frozenset[str]],
    ) -> None:
        self.experiment, self.world, self.record, self.wanted = experiment, world, record, wanted
        self.models = Models(experiment, world.device)
        self.pretrained = self.models.pretrained()
        parts = experiment.data.parts()
        self.seen = [parts[split] for split in ("train", "val") if split in parts]
        self._result = result

    def score_id(self, splits: list[str]) -> None:
        """Score these splits of the run's own data. ConfigError if the data are not those that it was trained on."""
        if not splits:
            return
        # only reading the training images shows which are corrupt, and so no part of the fingerprint
        read = SPLITS if self._result.data.corrupt_images_skipped else set(splits)
        loaded = self.experiment.data.load(self.models.recipe.preprocessing, read=read)
        if loaded.fingerprint != self._result.data.fingerprint:
            raise ConfigError(f"data: no longer what {self.experiment.run.folder} was trained on; restore it")
        for split in splits:
            images = loaded.parts()[split].unaugmented()
            everything = torch.ones(len(loaded.classes), dtype=torch.bool)
            entry = ScoredSplit(mark="", images=len(images), reads=0, scores={})
            self._score(split, images, everything, self.record.splits.get(split, entry))

    def score_set(self, name: str, ood: OOD) -> None:
        """Score all shifts of one set. ConfigError if no picture of a shift can be read."""
        shifts = opened(ood, name, classes=self.models.recipe.classes, seen=self.seen)
        _log.info("%-9s %s: %s", "ood", name, "; ".join(_told(shifts)))
        for shift, matched in shifts.items():
            if self.wanted["ood"] <= _scored(self.record, shift):
                continue
            part, images, skipped = self.experiment.data.load_other(
                matched.labelled, self.models.recipe.preprocessing, label=f"ood {shift}"
            )
            if not len(images):
                raise ConfigError(f"ood.{name}: no picture of {shift} can be read")
            entry = ScoredSplit(
                **marks_of(ood),
                shifts=len(shifts),
                images=len(images),
                fingerprint=part.digest(),
                corrupt_images_skipped=skipped,
                missing_classes=list(matched.missing),
                missing_are_predictable=bool(matched.predictable.all()),
                dropped_classes=list(matched.dropped),
                reads=0,
                scores={},
            )
            known = self.record.splits.get(shift, entry)
            same = known.fingerprint == entry.fingerprint  # else the models would be scored on different images
            self._score(shift, images, matched.predictable, known if same else entry)

    def _score(self, split: str, images: Images, predictable: Tensor, entry: ScoredSplit) -> None:
        """Score a split with all models that have not scored it; `reads` counts how often that has begun."""
        entry = entry.model_copy(update={"reads": entry.reads + 1, "scores": dict(entry.scores)})
        self.record.splits[split] = entry
        self._write()
        images = in_windows({split: images}, self.models.final.criterion.stride)[split]
        # no features are compared where only interpolated models are scored
        compared = self._due(split) & {FINAL, PROBE} and not self.models.final.segments
        before = self._features(self.pretrained, split, images) if compared else None
        for name, model in self._candidates(split):
            label = f"scoring {split}" if name == FINAL else f"scoring {split}, {name}"
            trainer, workers = self.experiment.trainer, self.experiment.data.workers
            found, distances = score(
                model,
                self._source(model, split, images),
                trainer.inference(label, workers=workers, world=self.world),
                predictable=predictable,
                before=before if name in (FINAL, PROBE) else None,
            )
            entry.scores[name] = {**self._defined(model.criterion.scores(found), split), **distances}
        self._write()

    def _defined(self, scores: dict[str, float], split: str) -> dict[str, float]:
        """Return the scores. ConfigError if the images of a split do not define the metric of the run's objective."""
        metric = self.experiment.objective.metric
        if metric.name not in scores:
            raise ConfigError(f"ood: the labels of {split} define no {metric.words}; it is compared with nothing")
        return scores

    def _candidates(self, split: str) -> Iterator[tuple[str, Model]]:
        wanted = self._due(split)
        for name in (FINAL, PROBE):
            if name in wanted:
                yield name, self.models.named(name)
        for alpha in self.experiment.interpolation.alphas:
            if at(alpha) in wanted:
                with self.models.interpolated(alpha) as model:
                    yield at(alpha), model

    def _due(self, split: str) -> frozenset[str]:
        """Return the names of the models that have not scored a split."""
        return self.wanted.get(split, self.wanted["ood"]) - _scored(self.record, split)

    def _source(self, model: Model, split: str, images: Images) -> Any:
        """Return stored observations if the model's backbone never changes, else the images."""
        return open_store(self.experiment, model, {split: images}, self.world, quiet=True).source(split)

    def _features(self, model: Model, split: str, images: Images) -> Tensor:
        """Return the model's features of all images, (n, D), on the CPU."""
        table = tabulated(
            model,
            self._source(model, split, images),
            batch_size=self.experiment.trainer.eval_batch_size,
            workers=self.experiment.data.workers,
            autocast=self.experiment.trainer.autocast(self.world.device),
            device=self.world.device,
        )
        return table.features

    def _write(self) -> None:
        if self.world.is_main:
            self.experiment.run.write_ood(self.record)


def _wanted(experiment: Experiment, result: Result) -> dict[str, frozenset[str]]:
    """Return the names of the models to score on `val`, on `test` and on every shift (`ood`). ConfigError for
    interpolation without validation images."""
    models = {FINAL} | ({PROBE} if experiment.run.probe.is_file() else set())
    alphas = set()
    if experiment.interpolation.alphas and result.parameters.method:
        if "val" not in result.data.images:
            raise ConfigError(NO_VALIDATION)
        alphas = {at(alpha) for alpha in experiment.interpolation.alphas}
    return {"val": frozenset(alphas), "test": frozenset(models | alphas), "ood": frozenset(models | alphas)}


def _id_splits(wanted: Mapping[str, frozenset[str]]) -> list[str]:
    return [split for split in ID_SPLITS if wanted[split]]


def _scored(record: ShiftScores, split: str) -> frozenset[str]:
    return frozenset(record.splits[split].scores) if split in record.splits else frozenset()


def _is_done(record: ShiftScores, name: str, wanted: Mapping[str, frozenset[str]]) -> bool:
    """Return whether every shift of a set has been scored by all models."""
    shifts = _shifts_of(record, name)
    complete = shifts and len(shifts) == record.splits[shifts[0]].shifts
    return bool(complete) and all(wanted["ood"] <= _scored(record, split) for split in shifts)


def _shifts_of(record: ShiftScores, name: str) -> list[str]:
    return [split for split in record.splits if split.split("/")[0] == name and split not in ID_SPLITS]


def _told(shifts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the parts of one line: the first shift in full, and the number of shifts if there are several."""
    first, *others = shifts
    yield str(shifts[first])
    if others:
        yield f"the first of {len(shifts)} shifts"


def _summed_up(record: ShiftScores, experiment: Experiment, wanted: Mapping[str, frozenset[str]]) -> ShiftScores:
    """Return the record with the summary over the sets that this command asks for."""
    splits, metric = record.splits, experiment.objective.metric
    shifts = [shift for name in experiment.ood for shift in _shifts_of(record, name)]
    images = {shift: splits[shift].images for shift in shifts}

    def over_sets(model: str) -> dict[str, float]:
        scores = {shift: splits[shift].scores[model] for shift in shifts}
        return summarised(scores, images, metric) if shifts else {}

    metrics = over_sets(FINAL) | _distances(splits["test"].scores[FINAL], "test")
    if PROBE in wanted["ood"]:
        of_probe = over_sets(PROBE) | _distances(splits["test"].scores[PROBE], "test")
        metrics |= {f"probe/{name}": value for name, value in of_probe.items()}
    interpolation = None
    if wanted["val"]:
        alphas = sorted(experiment.interpolation.alphas)
        rows = []
        for alpha in alphas:
            id_scores = {
                f"{split}/{metric}": value
                for split in ID_SPLITS
                for metric, value in splits[split].scores[at(alpha)].items()
            }
            rows.append({"alpha": alpha, **id_scores, **over_sets(at(alpha))})
        best = max(rows, key=lambda row: Merit.of(metric.rank(row[f"val/{metric.name}"]), row["val/loss"]))
        rule = rule_in_words(metric, "smallest alpha")
        interpolation = InterpolationRecord(rows=rows, chosen=best["alpha"], rule=rule)
    return record.model_copy(update={"metrics": metrics, "images": images, "interpolation": interpolation})


def _distances(scores: Mapping[str, float], split: str) -> dict[str, float]:
    return {f"{split}/{name}": value for name, value in scores.items() if name.startswith("feature_distance")}
