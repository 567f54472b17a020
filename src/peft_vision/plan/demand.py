"""What a sweep will ask for: runs that cost the same, counted together."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from peft_vision.data.extent import Extent
from peft_vision.experiment import Experiment
from peft_vision.optimizer.base import Stepper

_FREE = ("lr", "weight_decay", "momentum", "betas")  # of an optimizer: as fast with any value


@dataclass
class Demand:
    """Runs of one kind on one data set. `times`: how many, not a whole number where it is not known yet which of
    several kinds they will be; `done`: of these, finished before. `experiment`: one of them."""

    experiment: Experiment
    extent: Extent
    times: float = 0.0
    done: float = 0.0

    @property
    def left(self) -> float:
        return self.times - self.done


def demands(runs: Iterable[tuple[Experiment, float]]) -> list[Demand]:
    """Of runs, each so many times. ConfigError where images are neither here nor of a known number."""
    extents: dict[str, Extent] = {}
    found: dict[str, Demand] = {}
    for experiment, times in runs:
        images = _key(experiment.config["data"])
        if images not in extents:
            extents[images] = experiment.data.extent()
        demand = found.setdefault(f"{kind(experiment)} {images}", Demand(experiment, extents[images]))
        demand.times += times
        demand.done += times if (experiment.run.folder / "result.json").is_file() else 0
    return list(found.values())


def kind(experiment: Experiment) -> str:
    """Equal where a step takes as long, on images and classes as many."""
    config = experiment.config
    groups: dict[str, Any] = {name: config[name] for name in ("backbone", "method", "head", "features")}
    groups["trainer"] = {key: value for key, value in config["trainer"].items() if key != "epochs"}
    for name, optimizer in experiment.fitting.items():
        free = _FREE if isinstance(optimizer, Stepper) else ()
        groups[name] = {key: value for key, value in config[name].items() if key not in free}
    return _key(groups)


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, default=str)
