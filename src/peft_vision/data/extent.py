"""How much a data set holds."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Extent:
    """`images`: by split, as many as a run reads; `classes`: how many."""

    images: Mapping[str, int]
    classes: int


def published_extent(stage: str, *, train: int, val: int, test: int, classes: int) -> Extent:
    """Of splits whose sizes are known, as `data.stage` uses them."""
    if stage == "tune":
        return Extent({"train": train, "val": val}, classes)
    if stage == "final":
        return Extent({"train": train + val, "test": test}, classes)
    if stage == "peek":
        return Extent({"train": train + val, "val": test, "test": test}, classes)
    return Extent({"train": train, "val": val, "test": test}, classes)
