"""Runs of a sweep before they are started."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from peft_vision.backbone.observation import Kind
from peft_vision.experiment import Experiment


@dataclass(frozen=True)
class Expected:
    """`times` runs like `experiment`: not a whole number where it is not known yet which of several kinds a run will be
    of. `ended`: whether they are over already."""

    experiment: Experiment
    times: float = 1.0
    ended: bool = False


def evenly(experiments: Sequence[Experiment], times: float) -> list[Expected]:
    """`times` runs in all, each as likely as the others."""
    return [Expected(its, times / len(experiments)) for its in experiments]


def together(runs: Sequence[Expected]) -> list[Expected]:
    """As a sweep starts them: where their methods read different things, the first to look at an image stores what any
    of them reads."""
    left = [its.experiment for its in runs if not its.ended]
    reads = {frozenset(experiment.method.reads()) for experiment in left}
    if len(reads) < 2 or any(experiment.features.also for experiment in left):
        return list(runs)
    also = tuple(sorted(frozenset.union(*reads)))
    return [its if its.ended else replace(its, experiment=_told(its.experiment, also)) for its in runs]


def _told(experiment: Experiment, also: tuple[Kind, ...]) -> Experiment:
    config = {**experiment.config, "features": {**experiment.config["features"], "also": list(also)}}
    return replace(experiment, features=replace(experiment.features, also=also), config=config)
