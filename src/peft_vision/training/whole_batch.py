"""This module checks that a module with statistics of a whole batch never sees a part of one, or a single image."""

from torch.nn.modules.batchnorm import _BatchNorm

from peft_vision.core.config import ConfigError
from peft_vision.head.batch_norm import BatchNorm
from peft_vision.models.model import Model
from peft_vision.training.trainer import Trainer


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
