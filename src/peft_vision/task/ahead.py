"""This module checks, before training, for faults that would otherwise stop a run only after it."""

import json
import os
from collections.abc import Mapping
from typing import Any

from peft_vision.core.config import ConfigError
from peft_vision.data.splits import Splits
from peft_vision.method.selection import head_columns
from peft_vision.models.adapter import write_adapter
from peft_vision.models.model import Model
from peft_vision.ood.opened import foresee, opened
from peft_vision.runs.experiment import Experiment
from peft_vision.shift.scoring import NO_VALIDATION


def check_end(experiment: Experiment, model: Model, splits: Splits) -> None:
    """Raise ConfigError for faults that would otherwise stop the run only after its training."""
    if splits.val is None and experiment.trainer.keep == "best":
        raise ConfigError("trainer.keep: best needs validation images to tell the best epoch; set data.val_fraction")
    if splits.val is None and experiment.interpolation.alphas:
        raise ConfigError(NO_VALIDATION)
    if any(phase.lasso for phase in model.phases):
        head_columns(model.head)  # raises ConfigError for a head without a linear layer
    if experiment.ood:
        parts = experiment.data.parts()
        seen = [parts[split] for split in ("train", "val") if split in parts]
        for name, ood in experiment.ood.items():
            foresee(opened(ood, name, classes=splits.classes, seen=seen), name, experiment.data)


def rehearse(model: Model, facts: Mapping[str, Any]) -> None:
    """Raise now if the facts or the adapter could not be written after training; disk faults are not covered."""
    json.dumps(facts, default=repr)
    write_adapter(model, os.devnull)
