"""This module mirrors a run in its tracker; a tracker that fails costs a warning, and never the run."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from math import isnan
from typing import Any

import numpy as np

from peft_vision.core.output import one_line
from peft_vision.core.records import Unreadable, read_json_lines
from peft_vision.objective.predictions import ALL_CLASSES, KeptPredictions
from peft_vision.report.per_class import class_counts, class_scores
from peft_vision.runs.experiment import Experiment
from peft_vision.runs.run import Run, is_epoch, mirrored_as
from peft_vision.runs.run_records import Result
from peft_vision.tracker.several import forgiving
from peft_vision.tracker.trackers import Log

_log = logging.getLogger("peft_vision")


@contextmanager
def mirrored(experiment: Experiment, run: Run, *, anew: bool = False) -> Iterator[Log]:
    """Open the run's log in its tracker, which may refuse; whatever else fails is logged, and the run goes on. `anew`:
    whether the run begins anew, and so does not continue the log of an earlier attempt."""
    names = [experiment.choices[group] for group in ("method", "backbone", "data")]
    opens = partial(
        experiment.tracker.open,
        run_id=mirrored_as(experiment.identity, run.folder, anew=anew),
        name=experiment.name,
        group="-".join(names),  # groups the seeds and settings of one comparison; tracker.group overrides it
        job_type="train" if experiment.data.stage == "all" else experiment.data.stage,
        tags=names,
        config=experiment.config,
        folder=run.folder,
    )
    with forgiving(opens, run.folder) as log:
        yield log


_COSTS = ("images_per_second", "peak_mib", "train_seconds", "wall_seconds")


def tell_row(log: Log, row: Mapping[str, Any]) -> None:
    """Log a row of metrics. Of a run of several phases only epochs are logged: their count goes on from phase to phase,
    and a tracker would take the settings of a solver, counted from 1, for later epochs that it has already."""
    if "phase" not in row or is_epoch(row):
        log.metrics(row, step=int(row["epoch"]))


def tell_epochs(log: Log, experiment: Experiment) -> None:
    """Log the epochs that metrics.jsonl already holds if a W&B agent waits: the agent's own run lacks them."""
    if not experiment.tracker.is_awaited():
        return
    try:
        rows, _ = read_json_lines(experiment.run.folder / "metrics.jsonl")
    except Unreadable as error:
        _log.warning("W&B's agent is not told of the epochs: %s", error)
        rows = []
    for row in rows:
        if isinstance(row.get("epoch"), int):
            tell_row(log, row)


def tell_again(experiment: Experiment, run: Run, result: Result) -> None:
    """Send the epochs and the summary of a run that was finished before, if a W&B agent waits."""
    if not experiment.tracker.is_awaited():
        return
    with mirrored(experiment, run) as log:
        tell_epochs(log, experiment)
        log.summary(summary(result))


def summary(result: Result) -> dict[str, Any]:
    """Return the metrics of a run, its costs and its optimizer's footprint in one dict."""
    costs = {name: getattr(result, name) for name in _COSTS if name in result.model_fields_set}
    return {**result.metrics, **costs, **dict(result.optimizer or {})}


def tell_classes(log: Log, found: KeptPredictions) -> None:
    """Send how well each class of the test images is predicted; and, of classes that are not many, which are taken for
    which others."""
    if found.labels_are == "numbers":
        return
    scores, counts = class_scores(found), class_counts(found)
    columns = [[None if isnan(value) else value for value in values.tolist()] for values in scores.values()]
    rows = [list(row) for row in zip(map(one_line, found.classes), counts.tolist(), *columns, strict=True)]
    log.table("test/classes", ["class", "count", *scores], rows)
    if found.labels_are != "several" and len(found.classes) <= ALL_CLASSES:
        names, matrix = [one_line(name) for name in found.classes], found.matrix()
        pairs = [[names[true], names[other], int(matrix[true, other])] for true, other in np.argwhere(matrix).tolist()]
        log.table("test/confusion", ["true", "predicted", "count"], pairs)
