"""This module checks that a run's config fits its `data.stage`, which is one of:

all     train, choose by validation, test: one run that is complete in itself
tune    try a setting: train on the training part and score on validation; the test images are left alone
final   train a chosen setting on training and validation images together, then test
peek    train on both too, as some papers do, and choose by the test images instead of validation. No honest figure
"""

from collections.abc import Mapping

from peft_vision.core.config import ConfigError
from peft_vision.interpolation.wise_ft import Interpolation
from peft_vision.optimizer.base import Optimizer, Solver
from peft_vision.training.trainer import Trainer

_WHY = "and data.stage=final trains on the validation images"


def check_stage(
    stage: str, *, trainer: Trainer, optimizers: Mapping[str, Optimizer], interpolation: Interpolation
) -> None:
    """Raise ConfigError if a run would choose by validation images that it trains on. `optimizers`: those that fit
    something, by config group."""
    if stage != "final":
        return
    faults = []
    if trainer.keep == "best":
        faults.append(f"trainer.keep: best chooses an epoch by validation, {_WHY}; set trainer.keep=last")
    for group, optimizer in optimizers.items():
        if isinstance(optimizer, Solver) and optimizer.num_settings > 1:
            tried = f"{optimizer.num_settings} settings to choose from by validation"
            faults.append(f"{group}: {tried}, {_WHY}; give one setting")
    if interpolation.alphas:
        faults.append(f"interpolation: chooses alpha by validation, {_WHY}; write interpolation=none")
    if faults:
        raise ConfigError("\n".join(faults))
