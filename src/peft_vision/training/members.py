"""This module holds the models that train in the same steps: one for each setting of a grid, or for each seed and
setting."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from peft_vision.core.tensor_files import Damaged, check_tensors
from peft_vision.models.model import Model
from peft_vision.objective.base import Merit
from peft_vision.optimizer.base import Stepper, merit_of_tried
from peft_vision.optimizer.restore import restore
from peft_vision.training.train_state import TrainState


@dataclass
class Member:
    """The training of one setting with one seed, the seed at the place `group` among those that train. `best`: holds
    the best epoch so far where the trainer keeps it."""

    model: Model
    optimizer: Stepper
    stepper: torch.optim.Optimizer
    seed: int
    group: int
    best: TrainState = field(default_factory=TrainState)

    @property
    def setting(self) -> dict[str, float]:
        """Return the setting that is tried."""
        return {"lr": self.optimizer.lr, "weight_decay": self.optimizer.weight_decay}

    def take_best(self) -> None:
        """Put back what was tuned at the best epoch, where that is kept."""
        if self.best.best is not None:
            self.model.load_state_dict(self.best.best["tuned"], strict=False)

    def saved(self) -> dict[str, Any]:
        """Return what the training goes on from."""
        tuned = {name: tensor.to("cpu", copy=True) for name, tensor in self.model.tuned_state().items()}
        return {"tuned": tuned, "stepper": self.stepper.state_dict(), "best": self.best.best}

    def load(self, saved: Any) -> None:
        """Go on from what was saved. Raise Damaged where it is not of such a setting."""
        if not isinstance(saved, Mapping) or saved.keys() != {"tuned", "stepper", "best"}:
            raise Damaged("a setting of its grid is none of this run's")
        check_tensors(saved["tuned"], self.model.tuned_state(), "the tensors of a setting")
        self.model.load_state_dict(dict(saved["tuned"]), strict=False)
        restore(self.stepper, saved["stepper"])
        if saved["best"] is not None:
            tuned = saved["best"].get("tuned") if isinstance(saved["best"], Mapping) else None
            check_tensors(tuned, self.model.tuned_state(), "the tensors of a setting's best epoch")
        self.best.best = saved["best"]


def best_setting(rows: Sequence[Mapping[str, float]], *, num_settings: int) -> int:
    """Return the place of the best setting among `num_settings`: that of the highest mean merit over the seeds, of
    equal ones the first. `rows`: what each model ended with, those of a seed one after the other. A setting that
    diverged with any seed comes after all that did not."""

    def merit(place: int) -> tuple[bool, Merit]:
        of_seeds = rows[place::num_settings]
        whole = all(math.isfinite(row["train/loss"]) for row in of_seeds)
        if len(of_seeds) == 1:
            return whole, merit_of_tried(of_seeds[0])
        return whole, Merit.mean(map(merit_of_tried, of_seeds))

    return max(range(num_settings), key=merit)
