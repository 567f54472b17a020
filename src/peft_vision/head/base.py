"""This module defines the head, which maps features to logits."""

from typing import Annotated, ClassVar, Literal

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as differentiable
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from peft_vision.core.config import component


class BatchNorm(nn.BatchNorm1d):
    """A `BatchNorm1d` that has no affine part and works on batches divided among processes, some of which may have no
    image: each process normalises by the statistics of the whole batch. A batch of a single image, such as the last of
    an epoch, has no variance: it is normalised by the running averages and does not update them."""

    def __init__(self, width: int) -> None:
        super().__init__(width, affine=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return the normalised features, (B, W) like the input."""
        if self.is_divided:
            return self._over_processes(features)
        if self.training and len(features) == 1:
            return F.batch_norm(features, self.running_mean, self.running_var, eps=self.eps)
        return super().forward(features)

    @property
    def is_divided(self) -> bool:
        """True if the statistics are now those of parts of a batch on several processes."""
        return self.training and _processes() > 1

    def _over_processes(self, features: Tensor) -> Tensor:
        """Normalise by the statistics of all processes; gradients pass through them to the images of every process."""
        given, features = features.dtype, features.float()  # 8 bits of bf16 count no more than 256 images
        count = _summed(features.new_tensor(len(features)))
        mean = _summed(features.sum(dim=0)) / count
        var = _summed((features - mean).square().sum(dim=0)) / count
        several = count > 1
        with torch.no_grad():
            share = self.momentum * several  # 0 for a single image
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(var * count / (count - 1).clamp(min=1), share)
            self.num_batches_tracked += several
        mean, var = torch.where(several, mean, self.running_mean), torch.where(several, var, self.running_var)
        return ((features - mean) / (var + self.eps).sqrt()).to(given)


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _summed(part: Tensor) -> Tensor:
    """Return the sum of `part` over all processes, which gradients pass through."""
    return differentiable.all_reduce(part)


Reads = Literal["features", "grid", "grids"]


@component
class Head:
    """A linear classifier, with optional normalisation of its input and hidden layers before it.

    `norm`: none, batch (over the whole batch of an update; no affine part, as in MAE's linear probe) or layer.
    `hidden`: widths of hidden layers, each with GELU and dropout. `std`: standard deviation of the last layer's initial
    weights, or fan_out: the square root of 2 / C, as in the code of VPT and VQT; its bias starts at zero. `reads`: what
    of an image it maps to logits: its features (B, W), or, for segmentation, the last grid of features (B, D, h, w),
    or several grids, side by side as channels.
    """

    reads: ClassVar[Reads] = "features"

    norm: Literal["none", "batch", "layer"]
    hidden: tuple[PositiveInt, ...]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    std: NonNegativeFloat | Literal["fan_out"]

    @property
    def is_linear(self) -> bool:
        """True if the head is a single linear layer on features, without norm, hidden layer or dropout, which a solver
        can fit."""
        plain = self.norm == "none" and not self.hidden and self.dropout == 0
        return plain and self.reads == "features"

    def build(self, width: int, num_classes: int) -> nn.Module:
        """Return a module from features (B, width) to logits (B, num_classes), or from a grid (B, width, h, w) to
        logits (B, num_classes, H, W) of any size, which the model resizes to that of the image."""
        parts: list[nn.Module] = []
        if self.norm == "batch":
            parts.append(BatchNorm(width))
        if self.norm == "layer":
            parts.append(nn.LayerNorm(width))
        for hidden in self.hidden:
            parts += [nn.Linear(width, hidden), nn.GELU(), nn.Dropout(self.dropout)]
            width = hidden
        if not self.hidden and self.dropout > 0:
            parts.append(nn.Dropout(self.dropout))
        return nn.Sequential(*parts, self.classifier(width, num_classes))

    def classifier(self, width: int, num_classes: int) -> nn.Linear:
        """Return the last layer with initial values."""
        classifier = nn.Linear(width, num_classes)
        if self.std == "fan_out":
            nn.init.kaiming_normal_(classifier.weight, mode="fan_out")
        elif self.std == 0:
            nn.init.zeros_(classifier.weight)
        else:
            nn.init.trunc_normal_(classifier.weight, std=self.std)
        nn.init.zeros_(classifier.bias)
        return classifier
