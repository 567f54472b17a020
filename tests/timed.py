"""The settings with which tests time a composed experiment on a CPU."""

import torch

from peft_vision.bench.setting import BenchSetting
from peft_vision.distributed import World
from peft_vision.experiment import Experiment


def timed(own: Experiment, *, warmup: int, repeats: int, steps: int) -> BenchSetting:
    """Time the components of `own` with three classes and seed 0."""
    return BenchSetting(
        backbone=own.backbone,
        head=own.head,
        optimizer=own.optimizer,
        trainer=own.trainer,
        features=own.features,
        world=World(rank=0, size=1, device=torch.device("cpu")),
        seed=0,
        num_classes=3,
        warmup=warmup,
        repeats=repeats,
        steps=steps,
    )
