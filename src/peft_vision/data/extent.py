"""How much a data set holds."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Extent:
    """`images`: by split, as many as a run reads; `classes`: how many."""

    images: Mapping[str, int]
    classes: int
