"""Final runs before it is known which settings they will be of."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from peft_vision.config import build
from peft_vision.experiment import Experiment
from peft_vision.optimizer.base import Optimizer, Solver
from peft_vision.plan.expected import Expected, evenly
from peft_vision.tuning.cells import images_and_model

_TRIED = ("C", "lr", "weight_decay")  # what a solver chooses within a run, of lists


def by_cell(runs: Iterable[Expected]) -> list[list[Expected]]:
    """In the order in which cells first appear."""
    cells: dict[str, list[Expected]] = {}
    for its in runs:
        cells.setdefault(images_and_model(its.experiment), []).append(its)
    return list(cells.values())


def unknown(cell: Sequence[Expected], seeds: Sequence[int]) -> list[Expected]:
    """The final runs of a cell in which the setting is not chosen yet: any of those that are tuned."""
    return [run for seed in seeds for run in evenly([as_final(its.experiment, seed) for its in cell], 1.0)]


def as_final(tuning: Experiment, seed: int) -> Experiment:
    """The final run of this setting, a solver's first one."""
    config = {**tuning.config, "data": {**tuning.config["data"], "stage": "final"}, "seed": seed}
    for group, optimizer in tuning.optimizers.items():
        if isinstance(optimizer, Solver):
            config[group] = {key: value[:1] if key in _TRIED else value for key, value in config[group].items()}
    fitting = {group: build(config[group], Optimizer, group) for group in tuning.optimizers}
    return replace(tuning, data=replace(tuning.data, stage="final"), seed=seed, config=config, **fitting)
