"""This module checks a training before it begins: a module with statistics of a whole batch should never see a part of
one, or a single image, and the config should fit its `data.stage`, which is one of:

all     train, choose by validation, test: one run that is complete in itself
tune    try a setting: train on the training part and score on validation; the test images are left alone
final   train a chosen setting on training and validation images together, then test
peek    train on both too, as some papers do, and choose by the test images instead of validation. No honest figure
"""

from collections.abc import Mapping

from torch.nn.modules.batchnorm import _BatchNorm

from peft_vision.core.config import ConfigError
from peft_vision.head.base import BatchNorm
from peft_vision.interpolation.wise_ft import Interpolation
from peft_vision.models.model import Model
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


def check_whole_batch(model: Model, trainer: Trainer, *, processes: int) -> None:
    """Raise ConfigError if the statistics of a batch would be those of a part of it, or of a single image."""
    held = set(model.encoder.held())
    norms = {name: part for name, part in model.named_modules() if isinstance(part, _BatchNorm) and part not in held}
    if not norms:
        return
    what = f"{next(iter(norms))} (head.norm=batch) normalises by the batch"
    if trainer.batch_size == 1:
        raise ConfigError(f"trainer.batch_size: {what}, and one image has no spread; it takes 2 or more")
    if trainer.accumulate != 1:
        seen = "parts" if trainer.accumulate == "auto" else f"{trainer.accumulate} parts"
        raise ConfigError(
            f"trainer.accumulate: {what}, and would see {seen} of it one by one; "
            "set trainer.accumulate=1 or head.norm=layer"
        )
    foreign = [name for name, part in norms.items() if not isinstance(part, BatchNorm)]
    if processes > 1 and foreign:
        raise ConfigError(f"{foreign[0]} normalises by the batch, of which each of {processes} processes sees a part")
