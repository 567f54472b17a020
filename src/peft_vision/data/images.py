"""The images of one split, fetched in batches whose make-up the trainer decides.

A batch is a function of (seed, indices): the same from memory or from disk, with or without loader processes.
"""

import os
import sys
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from peft_vision.data.augment import augmented
from peft_vision.data.decode import Geometry
from peft_vision.data.pictures import Pictures


def usable(workers: int) -> int:
    """`workers`, but no more than the CPUs this process may use: more only take turns."""
    cpus = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(workers, cpus)


class Undecoded:
    """Stands in for a uint8 tensor (n, 3, S, S) that does not fit in memory: indexing it decodes."""

    def __init__(self, pictures: Pictures, indices: Tensor, geometry: Geometry) -> None:
        self.pictures = pictures
        self.indices = indices
        self.geometry = geometry

    def __getitem__(self, positions: Tensor) -> Tensor:
        size = self.geometry.size
        images = torch.empty((len(positions), 3, size, size), dtype=torch.uint8)
        for image, index in zip(images.numpy(), self.indices[positions].tolist(), strict=True):
            image[:] = self.geometry.apply(self.pictures.read(index))
        return images


class Images:
    """`labels` (n,) int64; `pixels` uint8 (n, 3, S, S) in memory, or decoded at each access."""

    def __init__(self, labels: Tensor, pixels: Tensor | Undecoded, augment: str) -> None:
        self.labels = labels
        self.pixels = pixels
        self.augment = augment

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, index_batches: Sequence[Tensor], *, seed: int | None, workers: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """For each (B,) of indices, images uint8 (B, 3, S, S) and labels (B,); B may be 0. Without a seed
        nothing is augmented; no global random state is read or left changed."""
        fetch = _Batches(self, index_batches, seed)
        processes = min(usable(workers), len(index_batches))
        # from memory, indexing and flip_crop cost less than sending a batch between processes
        augment = "none" if seed is None else self.augment
        if processes == 0 or (isinstance(self.pixels, Tensor) and augment != "rand_augment"):
            yield from (fetch[i] for i in range(len(fetch)))
            return
        yield from DataLoader(
            fetch,
            batch_size=None,  # an item is a batch
            num_workers=processes,
            generator=torch.Generator(),  # else the loader draws its base seed from the global one
            multiprocessing_context="fork" if sys.platform == "linux" else None,  # shares pixels uncopied
        )


class _Batches(Dataset):
    def __init__(self, images: Images, index_batches: Sequence[Tensor], seed: int | None) -> None:
        self.images = images
        self.index_batches = index_batches
        self.seed = seed

    def __len__(self) -> int:
        return len(self.index_batches)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        indices = self.index_batches[number]
        pixels = self.images.pixels[indices]
        if self.seed is not None:
            pixels = augmented(pixels, indices, augment=self.images.augment, seed=self.seed)
        return pixels, self.images.labels[indices]
