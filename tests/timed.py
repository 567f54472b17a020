"""The settings with which tests time a composed experiment on a CPU."""

import torch

from peft_vision.core.distributed import World
from peft_vision.costs.setting import BenchSetting
from peft_vision.runs.experiment import Experiment


def timed(experiment: Experiment, *, warmup: int, repeats: int, steps: int) -> BenchSetting:
    """Time the components of `experiment` with three classes and seed 0."""
    return BenchSetting(
        backbone=experiment.backbone,
        objective=experiment.objective,
        head=experiment.head,
        optimizer=experiment.optimizer,
        trainer=experiment.trainer,
        features=experiment.features,
        world=World(rank=0, size=1, device=torch.device("cpu")),
        seed=0,
        num_classes=3,
        warmup=warmup,
        repeats=repeats,
        steps=steps,
    )
