"""This module counts the images and classes of a data set."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Extent:
    """The number of images of each split, and the number of classes."""

    images: Mapping[str, int]
    classes: int

    def at(self, stage: str) -> "Extent":
        """Return the extent that `data.stage` reads, of an extent with train, val and test."""
        train, val, test = (self.images[split] for split in ("train", "val", "test"))
        images = {
            "all": {"train": train, "val": val, "test": test},
            "tune": {"train": train, "val": val},
            "final": {"train": train + val, "test": test},
            "peek": {"train": train + val, "val": test, "test": test},
        }
        return Extent(images[stage], self.classes)
