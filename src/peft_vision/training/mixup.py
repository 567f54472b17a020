"""This module mixes each image of a batch with the one before it, and their labels likewise, as torchvision's MixUp and
CutMix do.

mixup   x = s x_i + (1 - s) x_j, s from Beta(alpha, alpha) (Zhang et al., 2017, arXiv:1710.09412)
cutmix  a box of x_i, of 1 - s of its area before it is cut at the edges, shows x_j (Yun et al., 2019, arXiv:1905.04899)

The label of x is s y_i + (1 - s) y_j, where s is the share of x_i in the pixels. Of both, each batch has one, by even
chances. One s, and one box, are drawn for a batch: they are a function of the run's seed, the epoch and the batch's
place in it, so a resumed run mixes as an uninterrupted one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from peft_vision.core.config import ConfigError
from peft_vision.core.seeding import derive
from peft_vision.training.step import Batch

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels."""


@dataclass(frozen=True)
class ImageMixing:
    """A function that mixes batches by mixup, cutmix or either; an alpha of 0 leaves that one out. `normalize` makes
    floats of images; these are mixed, which is the same as mixing the pixels first, but for rounding."""

    mixup_alpha: float
    cutmix_alpha: float
    num_classes: int
    normalize: Callable[[Tensor], Tensor]
    seed: int

    def __call__(self, batch: Batch, *place: int) -> Batch:
        """Return the batch with images (B, C, H, W) and labels (B, num_classes) mixed over all of its parts; itself
        without alphas. `place`: the epoch and the batch's number in it."""
        if not (self.mixup_alpha or self.cutmix_alpha):
            return batch
        if not all(isinstance(inputs, Tensor) and inputs.ndim == 4 for inputs, _ in batch.parts):
            raise ConfigError(
                "trainer.mixup_alpha, cutmix_alpha: they mix pixels, and this phase trains on stored features; "
                "set features.use=never, or both to 0"
            )
        images, labels = (torch.cat(parts) for parts in zip(*batch.parts, strict=True))
        share, box = self.draw(images.shape[-2:], *place)
        images, labels = self.normalize(images), F.one_hot(labels, self.num_classes).float()
        images = mixed(images, share) if box is None else pasted(images, box)
        pieces = [tensor.tensor_split(len(batch.parts)) for tensor in (images, mixed(labels, share))]
        return Batch([*zip(*pieces, strict=True)], batch.size)

    def draw(self, sides: tuple[int, int], *place: int) -> tuple[float, Box | None]:
        """Return the share of each image itself, and for cutmix the box that shows the other one. `sides`: height and
        width of the images."""
        random = np.random.default_rng(derive(self.seed, "mixing", *place))
        cuts = random.random() < 0.5 if self.mixup_alpha and self.cutmix_alpha else bool(self.cutmix_alpha)
        alpha = self.cutmix_alpha if cuts else self.mixup_alpha
        share = random.beta(alpha, alpha)
        if not cuts:
            return share, None
        (height, width), half = sides, math.sqrt(1 - share) / 2
        column, row = random.integers(width), random.integers(height)
        beside, above = int(half * width), int(half * height)
        left, right = max(0, column - beside), min(width, column + beside)
        top, bottom = max(0, row - above), min(height, row + above)
        return 1 - (right - left) * (bottom - top) / (width * height), (left, top, right, bottom)


def mixed(values: Tensor, share: float) -> Tensor:
    """Return `share` of each row plus the rest of the row before it; the last row is before the first."""
    return values.roll(1, 0) * (1 - share) + values * share


def pasted(images: Tensor, box: Box) -> Tensor:
    """Return the images with what the one before each shows in the box."""
    left, top, right, bottom = box
    images, others = images.clone(), images.roll(1, 0)
    images[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    return images
