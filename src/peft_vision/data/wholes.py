"""This module holds images before their centres are cut out, for random windows; they differ in shape."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from peft_vision.data.decode import middle


class UncroppedImages:
    """The uncropped images in memory, uint8 (C, H, W) each; indexing gives their centres (B, C, S, S), like a
    tensor."""

    def __init__(self, arrays: Sequence[np.ndarray], size: int) -> None:
        self.arrays = arrays
        self.size = size

    def __getitem__(self, positions: Tensor) -> Tensor:
        size = self.size
        channels = len(self.arrays[0]) if self.arrays else 3
        images = torch.empty((len(positions), channels, size, size), dtype=torch.uint8)
        for image, whole in zip(images.numpy(), self.wholes(positions), strict=True):
            top, left = (middle(length, size) for length in whole.shape[1:])
            image[:] = whole[:, top : top + size, left : left + size]
        return images

    def wholes(self, positions: Tensor) -> list[np.ndarray]:
        """Return the images (C, H, W) at `positions` (B,), which must not be written to."""
        return [self.arrays[position] for position in positions.tolist()]

    def digest(self) -> str:
        """Return the sha256 of pixels and shapes."""
        sha = hashlib.sha256(f"{self.size}".encode())
        for whole in self.arrays:
            sha.update(f"{whole.shape}".encode())
            sha.update(whole.data)
        return sha.hexdigest()
