"""This module holds what a training carries from epoch to epoch, and what all of its phases share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal

from torch import Tensor

from peft_vision.core.device_memory import InputKind
from peft_vision.core.distributed import World
from peft_vision.objective.base import Merit
from peft_vision.schedule.schedules import Schedule


@dataclass
class TrainState:
    """Resumable state of a training run, over all its phases, besides the model's tensors.

    `epochs`: how many are done; `train_seconds`: time spent in training steps; `wall_seconds`: time in all, over every
    process that worked on it; `test_reads`: how often scoring the test set has begun; `backbone_images`: how many
    images of each split went through the backbone, every pass counted; `stepped_epochs`, `stepped_seconds`: epochs that
    were trained step by step, and their time; `rows`: how many rows of metrics there are; `selection`: how a solver
    chose among its settings; `probe`: the head's metrics before anything else trained, scored once its phase was over;
    `footprint`: what the latest stepper holds and did besides stepping; `inputs`: where the inputs of the latest epoch
    lay, and what moved for a batch; `parts`: the parts of a batch that trainer.accumulate=auto found; `kept_epochs`:
    the best epoch of each phase that is over and keeps it; `best`: the present phase's best `epoch` so far, its
    validation `accuracy`, or the rank of another metric, its `ease` (see `Merit`), and the `tuned` tensors; `of_seeds`:
    what the chosen setting of a grid tuned with each seed but the run's own.
    """

    epochs: int = 0
    stepped_epochs: int = 0
    stepped_seconds: float = 0.0
    footprint: dict[str, float] | None = None
    inputs: dict[str, Any] | None = None
    parts: int = 1
    rows: int = 0
    selection: dict[str, Any] | None = None
    probe: dict[str, float] = field(default_factory=dict)
    train_seconds: float = 0.0
    wall_seconds: float = 0.0
    test_reads: int = 0
    backbone_images: dict[str, int] = field(default_factory=dict)
    optimizer: dict[str, Any] | None = None
    kept_epochs: dict[str, int] = field(default_factory=dict)
    best: dict[str, Any] | None = None
    of_seeds: dict[int, dict[str, Any]] = field(default_factory=dict)

    def count_epoch(self, seconds: float) -> None:
        """Add one epoch of steps that took so many seconds."""
        self.epochs += 1
        self.train_seconds += seconds
        self.stepped_epochs += 1
        self.stepped_seconds += seconds

    def merit_of_best(self) -> Merit:
        """Return the merit of the best epoch of the present phase, of which there must be one."""
        return Merit(self.best["accuracy"], self.best.get("ease", -inf))  # states of early versions have no loss


@dataclass(frozen=True)
class Training:
    """The parts of a training that all of its phases share. `workers`: threads or processes that read images. `record`
    gets the metrics of each epoch, or of each setting that a solver tried, and may return why to give up. `save` keeps
    the state, from which the run can go on. `device_memory_gib`: what inputs may take on the device, by config
    group. `initial`: the tuned tensors with which the runs of other seeds begin, for a grid that trains several."""

    schedule: Schedule
    seed: int
    workers: int
    world: World
    state: TrainState
    record: Callable[[dict[str, float]], str | None]
    save: Callable[[TrainState], None]
    device_memory_gib: Mapping[InputKind, float | Literal["auto"]] = field(
        default_factory=lambda: {"data": "auto", "features": "auto"}
    )
    initial: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
