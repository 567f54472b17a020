"""This module checks a training before it begins: a module with statistics of a whole batch should never see a part of
one, or a single image, and the config should fit its `data.stage`, which is one of:

all     train, choose by validation, test: one run that is complete in itself
tune    try a setting: train on the training part and score on validation; the test images are left alone
final   train a chosen setting on training and validation images together, then test
peek    train on both too, as some papers do, and choose by the test images instead of validation. No honest figure
"""

from collections.abc import Mapping

from torch.nn.modules.batchnorm import _BatchNorm

from peft_vision.backbone.load import Backbone
from peft_vision.core.config import ConfigError
from peft_vision.head.base import BatchNorm
from peft_vision.interpolation.wise_ft import Interpolation
from peft_vision.models.model import Model
from peft_vision.objective.base import Objective
from peft_vision.optimizer.base import Optimizer, Solver
from peft_vision.optimizer.grid import Grid
from peft_vision.training.probe import trains_together
from peft_vision.training.trainer import Trainer

ADVICE = "use hydra/sweeper=tune with optimizer=adamw"
"""For settings that cannot train in the same steps."""

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


def check_mixing(trainer: Trainer, objective: Objective, optimizers: Mapping[str, Optimizer]) -> None:
    """Raise ConfigError if images are to be mixed whose labels cannot be, or that a solver reads. `optimizers`: those
    that fit something, by config group."""
    if not trainer.mixes:
        return
    if objective.labels_are != "classes":
        raise ConfigError(f"{_mixing(trainer)}, and labels of one class a picture (objective=single_label); set 0")
    for group, optimizer in optimizers.items():
        if isinstance(optimizer, Solver):
            solver = type(optimizer).__name__
            raise ConfigError(f"{group}: {solver} solves on images as they are; use {group}=adamw, or {_off(trainer)}")


def check_mixed_inputs(trainer: Trainer, *, stored: bool, processes: int) -> None:
    """Raise ConfigError if images are to be mixed whose features are stored, or of whose batches each of several
    processes sees a part."""
    if trainer.mixes and stored:
        what = "here the features of the training images are stored, unmixed"
        raise ConfigError(f"{_mixing(trainer)}, and {what}; set features.use=never, or {_off(trainer)}")
    if trainer.mixes and processes > 1:
        what = f"of which each of {processes} processes sees a part"
        raise ConfigError(f"{_mixing(trainer)} of a whole batch, {what}; use one process, or {_off(trainer)}")


def _mixing(trainer: Trainer) -> str:
    name = "mixup_alpha" if trainer.mixup_alpha else "cutmix_alpha"
    return f"trainer.{name}: it mixes the pixels of images"


def _off(trainer: Trainer) -> str:
    given = {"mixup_alpha": trainer.mixup_alpha, "cutmix_alpha": trainer.cutmix_alpha}
    return " ".join(f"trainer.{name}=0" for name, alpha in given.items() if alpha)


def check_seeds(optimizers: Mapping[str, Optimizer], backbone: Backbone, seed: int) -> None:
    """Raise ConfigError where a grid's seeds are not those of runs that differ by the seed alone. `optimizers`: those
    that fit something, by config group; `seed`: the run's own."""
    for group, optimizer in optimizers.items():
        if not isinstance(optimizer, Grid) or optimizer.seeds is None:
            continue
        if seed not in optimizer.seeds:
            raise ConfigError(
                f"{group}.seeds: got {list(optimizer.seeds)}, without the run's own seed, {seed}, whose adapter is "
                f"kept; add it, or set seed={optimizer.seeds[0]}"
            )
        if len(optimizer.seeds) > 1 and not (backbone.pretrained or backbone.checkpoint):
            raise ConfigError(
                f"{group}.seeds: each seed draws its own random weights of the backbone, and these models share one; "
                "set backbone.pretrained=true or backbone.checkpoint, or write -m seed=0,1,2"
            )


def check_whole_batch(model: Model, trainer: Trainer, *, processes: int, images: int | None = None) -> None:
    """Raise ConfigError if the statistics of a batch would be those of a part of it, or of a single image. `images`:
    how many there are to train on, None where this is not known; the package's own norm of the head normalises a last
    batch of one image by its running averages, others do not."""
    held = set(model.encoder.held())
    norms = {name: part for name, part in model.named_modules() if isinstance(part, _BatchNorm) and part not in held}
    if not norms:
        return
    name, first = next(iter(norms.items()))
    of_head = isinstance(first, BatchNorm)
    what = f"{name}{' (head.norm=batch)' if of_head else ''} normalises by the batch"
    if trainer.batch_size == 1:
        raise ConfigError(f"trainer.batch_size: {what}, and one image has no spread; it takes 2 or more")
    if trainer.accumulate != 1:
        seen = "parts" if trainer.accumulate == "auto" else f"{trainer.accumulate} parts"
        raise ConfigError(
            f"trainer.accumulate: {what}, and would see {seen} of it one by one; "
            f"set trainer.accumulate=1{' or head.norm=layer' if of_head else ''}"
        )
    foreign = [name for name, part in norms.items() if not isinstance(part, BatchNorm)]
    if foreign and images is not None and images % trainer.batch_size == 1:
        raise ConfigError(
            f"trainer.batch_size: got {trainer.batch_size}, and {foreign[0]} normalises by the batch, of which the "
            f"last of {images} images has one; set another size"
        )
    if processes > 1 and foreign:
        raise ConfigError(f"{foreign[0]} normalises by the batch, of which each of {processes} processes sees a part")


def check_together(
    optimizers: Mapping[str, Optimizer], model: Model, trainer: Trainer, *, method: str, processes: int
) -> None:
    """Raise ConfigError where the settings of a grid cannot train in the same steps."""
    if not trains_together(optimizers["optimizer"], model):
        return
    if len(model.phases) > 1:
        raise ConfigError(f"optimizer: Grid trains one phase, and {method} has {len(model.phases)}; {ADVICE}")
    if model.segments:
        raise ConfigError(f"optimizer: Grid trains a method with a head on one vector of an image; {ADVICE}")
    if model.frozen != model.readout.reads and not model.encoder.trunk.divides:
        raise ConfigError(
            f"optimizer: {model.encoder.name} is computed by timm's own forward, for one setting; {ADVICE}"
        )
    if trainer.compile:
        raise ConfigError("trainer.compile: not of a grid's settings, which train in the same steps; set false")
    if trainer.accumulate == "auto":
        raise ConfigError(
            "trainer.accumulate: auto, and a grid of settings is trained in parts of a fixed size; set a number"
        )
    if processes > 1:
        raise ConfigError(f"optimizer: Grid trains a method's settings in one process, not in {processes}; {ADVICE}")
