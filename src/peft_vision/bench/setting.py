"""This module holds the setting in which all methods are measured: one backbone, head, optimizer and trainer, on random
images."""

from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer

from peft_vision.backbone.load import Backbone, load_backbone
from peft_vision.core.distributed import World
from peft_vision.core.seeding import derive
from peft_vision.data.images import Images
from peft_vision.features.store import TYPES, Features
from peft_vision.head.base import Head
from peft_vision.method.base import Method
from peft_vision.models.model import Model, assemble
from peft_vision.optimizer.base import Stepper
from peft_vision.training.trainer import Trainer

_BATCHES = 2  # so that a batch is not always the same memory


@dataclass(frozen=True)
class BenchSetting:
    """The setting that all methods share; `warmup` rounds of `steps` steps precede the `repeats` rounds that count."""

    backbone: Backbone
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

    def model(self, method: Method) -> Model:
        """Return the model with which a run begins, on the device."""
        model = assemble(
            self.vit(),
            method=method,
            head=self.head,
            num_classes=self.num_classes,
            preprocessing=self.backbone.preprocessing(),
            seed=derive(self.seed, "initialisation"),
        )
        model.observed_type = TYPES[self.features.dtype]
        return model.to(self.world.device)

    def images(self) -> Images:
        """Return a few batches of uint8 noise, (n, 3, S, S) at the backbone's size, in memory."""
        count, size = _BATCHES * self.trainer.batch_size, self.backbone.preprocessing().size
        generator = torch.Generator().manual_seed(self.seed)
        pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, self.num_classes, (count,), generator=generator)
        return Images(labels, pixels, augment="none")
