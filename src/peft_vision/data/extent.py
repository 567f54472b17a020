"""How much a data set holds."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Extent:
    """`images`: by split; `classes`: how many."""

    images: Mapping[str, int]
    classes: int

    def at(self, stage: str) -> "Extent":
        """As many as `data.stage` reads, of train, val and test."""
        train, val, test = (self.images[split] for split in ("train", "val", "test"))
        images = {
            "all": {"train": train, "val": val, "test": test},
            "tune": {"train": train, "val": val},
            "final": {"train": train + val, "test": test},
            "peek": {"train": train + val, "val": test, "test": test},
        }
        return Extent(images[stage], self.classes)
