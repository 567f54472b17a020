"""This module counts the runs of a sweep that are still to be done, grouped by equal cost."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from peft_vision.optimizer.base import Stepper
from peft_vision.plan.content import Content, contents
from peft_vision.plan.expected import Expected
from peft_vision.runs.experiment import Experiment

_FREE = ("lr", "weight_decay", "momentum", "betas")  # values of an optimizer that do not change its speed


@dataclass
class RunGroup:
    """The runs of one kind on the same images. `experiment`: one of them; `keys`: keys of the stored observations, by
    split; `times`: how many runs are left, a fraction while it is unknown which of several kinds they will be."""

    experiment: Experiment
    content: Content
    keys: Mapping[str, str]
    times: float = 0.0

    @property
    def images(self) -> Mapping[str, int]:
        """The numbers of images, by split."""
        return self.content.extent.images


def demands(runs: Iterable[Expected]) -> list[RunGroup]:
    """Return the demands of the runs that have not ended, in their order. ConfigError if images are not here and their
    number is not known."""
    opened: dict[str, Content] = {}
    found: dict[str, RunGroup] = {}
    for run in runs:
        if run.ended:
            continue
        data = _key(run.experiment.config["data"])
        if data not in opened:
            opened[data] = contents(run.experiment)
        content = opened[data]
        keys = content.keys(run.experiment)
        name = _key({"kind": kind(run.experiment), "data": data, "keys": keys})
        if name not in found:
            found[name] = RunGroup(run.experiment, content, keys)
        found[name].times += run.times
    return list(found.values())


def kind(experiment: Experiment) -> str:
    """Return a key that is equal if a step takes equally long, given equal numbers of images and classes."""
    config = experiment.config
    groups: dict[str, Any] = {name: config[name] for name in ("backbone", "method", "head", "features")}
    groups["trainer"] = {key: value for key, value in config["trainer"].items() if key != "epochs"}
    for name, optimizer in experiment.fitting.items():
        free = _FREE if isinstance(optimizer, Stepper) else ()
        groups[name] = {key: value for key, value in config[name].items() if key not in free}
    return _key(groups)


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, default=str)
