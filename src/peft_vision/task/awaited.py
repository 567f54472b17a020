"""This module reports a run's metrics to the W&B sweep agent that started it, even if the run was finished before."""

import logging
from collections.abc import Mapping
from typing import Any

from peft_vision.core.records import Unreadable, read_json_lines
from peft_vision.runs.experiment import Experiment
from peft_vision.runs.run import Run
from peft_vision.task.mirrored import mirrored
from peft_vision.tracker.trackers import Log

_log = logging.getLogger("peft_vision")
_COSTS = ("images_per_second", "peak_mib", "train_seconds", "wall_seconds")


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
            log.metrics(row, step=row["epoch"])


def tell_again(experiment: Experiment, run: Run, result: Mapping[str, Any]) -> None:
    """Send the epochs and the summary of a run that was finished before, if a W&B agent waits."""
    if not experiment.tracker.is_awaited():
        return
    with mirrored(experiment, run) as log:
        tell_epochs(log, experiment)
        log.summary(summary(result))


def summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of a run, its costs and its optimizer's footprint in one dict."""
    costs = {name: result[name] for name in _COSTS if name in result}
    return {**result["metrics"], **costs, **(result.get("optimizer") or {})}
