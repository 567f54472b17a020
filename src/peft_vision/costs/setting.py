"""This module holds the setting in which all methods are measured: one backbone, head, optimizer and trainer, on random
images."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from timm.models.vision_transformer import VisionTransformer

from peft_vision.backbone.load import Backbone, load_backbone
from peft_vision.core.composition import compared_methods, complete, option, options
from peft_vision.core.config import ConfigError, nearest
from peft_vision.core.distributed import World
from peft_vision.core.environment import environment
from peft_vision.core.preprocessing import sides_of, size_in_words
from peft_vision.core.seeding import derive
from peft_vision.data.images import Images
from peft_vision.features.store import TYPES, Features
from peft_vision.head.base import Head
from peft_vision.method.base import Method
from peft_vision.models.model import Model, Parts, assemble
from peft_vision.objective.base import Criterion, Objective
from peft_vision.optimizer.base import Stepper
from peft_vision.training.trainer import Trainer

_BATCHES = 2  # so that a batch is not always the same memory


@dataclass(frozen=True)
class BenchSetting:
    """The setting that all methods share; `warmup` rounds of `steps` steps precede the `repeats` rounds that count."""

    backbone: Backbone
    objective: Objective
    head: Head
    optimizer: Stepper
    trainer: Trainer
    features: Features
    world: World
    seed: int
    num_classes: int
    warmup: int
    repeats: int
    steps: int

    def vit(self) -> VisionTransformer:
        """Load the backbone, on the CPU."""
        return load_backbone(self.backbone, seed=self.seed)

    def criterion(self) -> Criterion:
        """Return a criterion for as many classes."""
        return self.objective.criterion(tuple(map(str, range(self.num_classes))))

    def model(self, method: Method) -> Model:
        """Return the model with which a run begins, on the device."""
        parts = Parts(
            method=method,
            head=self.head,
            criterion=self.criterion(),
            preprocessing=self.backbone.preprocessing(),
            frozen_bits=self.backbone.frozen_bits,
        )
        model = assemble(self.vit(), parts, seed=derive(self.seed, "initialisation"))
        model.round_observations_to(TYPES[self.features.dtype], grid=TYPES[self.features.grid_dtype])
        return model.to(self.world.device)

    def images(self) -> Images:
        """Return a few batches of uint8 noise, (n, C, H, W) at the backbone's size, in memory."""
        count, shown = _BATCHES * self.trainer.batch_size, self.backbone.preprocessing()
        generator = torch.Generator().manual_seed(self.seed)
        pixels = torch.randint(0, 256, (count, *shown.shape), dtype=torch.uint8, generator=generator)
        labels = self.criterion().made_up_labels(count, sides_of(shown.size), generator)
        return Images(labels, pixels, augment="none")


_PRECISIONS = {"torch.float32": "fp32", "torch.bfloat16": "bf16", "tf32": "tf32"}
_FOLDERS = ("out=", "runs=", "features.folder=")  # belong to a machine and change no figure


def conditions(setting: BenchSetting, *, weights: bool, num_parameters: int | None) -> dict[str, Any]:
    """Return the conditions as a record. `weights`: whether weights were loaded; `num_parameters`: of the backbone,
    None if it could not be measured."""
    device, trainer = setting.world.device, setting.trainer
    return {
        "command": shlex.join(["peft-vision", *filter(_lasting, HydraConfig.get().overrides.task)]),
        "backbone": setting.backbone.name,
        "backbone_parameters": num_parameters,
        "weights": "loaded" if weights else "random",
        "image_size": setting.backbone.preprocessing().size,
        "batch_size": trainer.batch_size,
        "precision": _PRECISIONS[trainer.arithmetic(device)],
        "optimizer": type(setting.optimizer).__name__,
        "rounds": setting.repeats,
        "steps_per_round": setting.steps,
        "environment": environment(device, 1),
    }


def in_words(facts: Mapping[str, Any]) -> str:
    """Describe the conditions in two sentences."""
    machine = facts["environment"]
    size = facts["backbone_parameters"]
    parameters = f", {size:,} parameters" if size else ""
    device = f"CPU, threads: {machine['threads']}" if machine["device"] == "cpu" else machine["device"]
    steps = facts["steps_per_round"]
    shown = size_in_words(facts["image_size"])
    each = f" of {steps} steps each" if steps > 1 else ""
    return (
        f"{facts['backbone']}{parameters}, {facts['weights']} weights, {shown}, batches of "
        f"{facts['batch_size']}, {facts['precision']}, {facts['optimizer']}; {device}, torch {machine['torch']}. "
        f"Medians of {facts['rounds']} rounds{each}."
    )


def _lasting(override: str) -> bool:
    return not override.lstrip("+").startswith(_FOLDERS)


FULL = "full"


def method_configs(names: tuple[str, ...] | None, config: Mapping[str, Any], chosen: str) -> dict[str, dict[str, Any]]:
    """Return the config of each method that `names` lists, or of all methods without a list, and of full fine-tuning.

    The method `chosen` on the command line is taken with the values it has there, in `config`. ConfigError for a name
    that does not exist.
    """
    known = options("method")
    for name in names or ():
        if name not in known:
            raise ConfigError(f"task.methods: no method {name!r}; there are {', '.join(known)}{nearest(name, known)}")
    wanted = dict.fromkeys([*(names or compared_methods()), FULL])
    return {name: complete(config["method"] if name == chosen else option("method", name)) for name in wanted}
