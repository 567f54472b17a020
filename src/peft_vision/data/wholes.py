"""Images before the centre is cut out of them, which random windows are taken from: they differ in shape."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from peft_vision.data.decode import middle


class Wholes:
    """uint8 (3, H, W) of each image in memory. Indexing gives the centres (B, 3, S, S), as if these were a tensor."""

    def __init__(self, arrays: Sequence[np.ndarray], size: int) -> None:
        self.arrays = arrays
        self.size = size

    def __getitem__(self, positions: Tensor) -> Tensor:
        size = self.size
        images = torch.empty((len(positions), 3, size, size), dtype=torch.uint8)
        for image, whole in zip(images.numpy(), self.wholes(positions), strict=True):
            top, left = (middle(length, size) for length in whole.shape[1:])
            image[:] = whole[:, top : top + size, left : left + size]
        return images

    def wholes(self, positions: Tensor) -> list[np.ndarray]:
        """(3, H, W) of those at `positions` (B,); not to be written to."""
        return [self.arrays[position] for position in positions.tolist()]

    def digest(self) -> str:
        """sha256 of pixels and shapes."""
        sha = hashlib.sha256(f"{self.size}".encode())
        for whole in self.arrays:
            sha.update(f"{whole.shape}".encode())
            sha.update(whole.data)
        return sha.hexdigest()
