"""This module foresees the final runs of a tuning before their settings are known."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from peft_vision.core.config import build
from peft_vision.optimizer.base import Optimizer, Solver
from peft_vision.plan.expected import Expected, evenly
from peft_vision.runs.experiment import Experiment
from peft_vision.tuning.cells import images_and_model

_TRIED = ("C", "lr", "weight_decay")  # keys whose lists a solver chooses from within a run


def by_cell(runs: Iterable[Expected]) -> list[list[Expected]]:
    """Group runs by their cell, in the order in which the cells first appear."""
    cells: dict[str, list[Expected]] = {}
    for run in runs:
        cells.setdefault(images_and_model(run.experiment), []).append(run)
    return list(cells.values())


def unknown(cell: Sequence[Expected], seeds: Sequence[int]) -> list[Expected]:
    """Return the final runs of a cell whose setting is not chosen yet: for each seed one run, spread evenly over the
    settings that are tuned."""
    return [run for seed in seeds for run in evenly([as_final(tuned.experiment, seed) for tuned in cell], 1.0)]


def as_final(tuning: Experiment, seed: int) -> Experiment:
    """Return the final run of this setting, with the first value of each list that a solver chooses from."""
    config = {**tuning.config, "data": {**tuning.config["data"], "stage": "final"}, "seed": seed}
    for group, optimizer in tuning.optimizers.items():
        if isinstance(optimizer, Solver):
            config[group] = {key: value[:1] if key in _TRIED else value for key, value in config[group].items()}
    fitting = {group: build(config[group], Optimizer, group) for group in tuning.optimizers}
    return replace(tuning, data=replace(tuning.data, stage="final"), seed=seed, config=config, **fitting)
