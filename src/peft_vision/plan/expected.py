"""This module describes the runs of a sweep before they are started."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from peft_vision.backbone.observation import Kind
from peft_vision.runs.experiment import Experiment


@dataclass(frozen=True)
class Expected:
    """Some runs that a plan expects: `times` runs like `experiment`, a fraction while it is unknown which of several
    kinds a run will be. `ended`: whether they are over already."""

    experiment: Experiment
    times: float = 1.0
    ended: bool = False


def evenly(experiments: Sequence[Experiment], times: float) -> list[Expected]:
    """Return `times` runs in all, spread evenly over the experiments."""
    return [Expected(experiment, times / len(experiments)) for experiment in experiments]


def together(runs: Sequence[Expected]) -> list[Expected]:
    """Return the runs as a sweep starts them: if their methods read different kinds of observation, the first run that
    reads an image stores all of these kinds."""
    left = [run.experiment for run in runs if not run.ended]
    reads = {frozenset(experiment.method.reads()) for experiment in left}
    if len(reads) < 2 or any(experiment.features.also for experiment in left):
        return list(runs)
    also = tuple(sorted(frozenset.union(*reads)))
    return [run if run.ended else replace(run, experiment=_told(run.experiment, also)) for run in runs]


def _told(experiment: Experiment, also: tuple[Kind, ...]) -> Experiment:
    config = {**experiment.config, "features": {**experiment.config["features"], "also": list(also)}}
    return replace(experiment, features=replace(experiment.features, also=also), config=config)
