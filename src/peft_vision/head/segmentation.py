"""This module defines heads for segmentation, which map grids of features to logits at each place.

segment_linear   logits = W norm(grid): the linear protocol of DINOv2 (Oquab et al., 2023, arXiv:2304.07193)
multi_linear     the same on the grids of four layers, side by side as channels
setr_pup         LN, then four times [3 x 3 convolution, norm, ReLU, twice the size], then W: the progressive upsampling
                 of SETR (Zheng et al., 2021, arXiv:2012.15840)

The model resizes the logits to the size of the image, bilinearly.
"""

from typing import ClassVar

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from peft_vision.core.config import component
from peft_vision.head.base import BatchNorm, Head, Reads


@component
class SegmentLinear(Head):
    """A head that applies the same layers as `Head` at each place of the last grid: without hidden layers, a 1 x 1
    convolution behind an optional norm. `norm`: batch is over all places of all images."""

    reads: ClassVar[Reads] = "grid"

    def build(self, width: int, num_classes: int) -> "AtEachPlace":
        return AtEachPlace(super().build(width, num_classes))


@component
class MultiLinear(SegmentLinear):
    """A head that applies the same layers as `Head` at each place of the grids of several layers: of the last layer of
    each quarter of the backbone, or of each of its last four groups of layers, resized to the largest."""

    reads: ClassVar[Reads] = "grids"


class AtEachPlace(nn.Module):
    """A module that applies `inner`, from (n, W) to (n, C), at each place of a grid, in fp32 even under autocast, so
    that no near tie of classes is decided by rounding."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, grid: Tensor) -> Tensor:
        """Map (B, W, h, w) to logits (B, C, h, w)."""
        rows, columns = grid.shape[2:]
        with torch.autocast(grid.device.type, enabled=False):
            logits = self.inner(grid.float().permute(0, 2, 3, 1).flatten(0, 2))
        return logits.unflatten(0, (-1, rows, columns)).permute(0, 3, 1, 2)


@component
class SetrPup(Head):
    """A head that doubles the last grid once for each of the `hidden` convolutions, whose numbers of output channels
    these are. `norm`: of their outputs. `dropout`: of whole channels before the last layer."""

    reads: ClassVar[Reads] = "grid"

    def build(self, width: int, num_classes: int) -> "Upsampling":
        parts: list[nn.Module] = [LayerNorm2d(width, eps=1e-6)]
        for channels in self.hidden:
            convolution = nn.Conv2d(width, channels, 3, padding=1, bias=self.norm == "none")
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            norm = {"none": nn.Identity, "batch": BatchNorm2d, "layer": LayerNorm2d}[self.norm](channels)
            parts += [convolution, norm, nn.ReLU(), Doubled()]
            width = channels
        parts.append(nn.Dropout2d(self.dropout))
        return Upsampling(nn.Sequential(*parts), self.classifier(width, num_classes))


class Upsampling(nn.Module):
    """A module whose `layers` make a larger grid of a grid, in the precision of autocast, and whose `classifier` maps
    that to logits at each place, in fp32."""

    def __init__(self, layers: nn.Module, classifier: nn.Linear) -> None:
        super().__init__()
        self.layers = layers
        self.classifier = classifier

    def forward(self, grid: Tensor) -> Tensor:
        """Map (B, W, h, w) to logits (B, C, 2^n h, 2^n w) for n doublings."""
        enlarged = self.layers(grid)
        with torch.autocast(grid.device.type, enabled=False):
            return F.conv2d(enlarged.float(), self.classifier.weight[:, :, None, None], self.classifier.bias)


class Doubled(nn.Module):
    """A module that doubles height and width of a grid, bilinearly."""

    def forward(self, grid: Tensor) -> Tensor:
        """Map (B, W, h, w) to (B, W, 2 h, 2 w)."""
        return F.interpolate(grid, scale_factor=2, mode="bilinear", align_corners=False)


class BatchNorm2d(BatchNorm):
    """A batch norm of grids (B, W, h, w) with a learned scale and shift, over the whole batch of all processes."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, grid: Tensor) -> Tensor:
        """Return the normed grid, in the shape of the input."""
        if self.is_divided:
            places = self._over_processes(grid.permute(0, 2, 3, 1).flatten(0, 2))
            normed = places.unflatten(0, (-1, *grid.shape[2:])).permute(0, 3, 1, 2)
        else:
            normed = nn.BatchNorm1d.forward(self, grid.flatten(2)).view_as(grid)
        return normed * self.scale.view(-1, 1, 1) + self.shift.view(-1, 1, 1)
