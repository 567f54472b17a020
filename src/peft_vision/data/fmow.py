"""This module reads FMoW-WILDS in some regions of the world, up to 2012 (Christie et al., 2018, arXiv:1711.07846; Koh
et al., 2021, arXiv:2012.07421).

Classes without a training image in these regions stay among the classes, since they do occur in other regions.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from peft_vision.core.config import FILE, component
from peft_vision.data.base import Data
from peft_vision.data.fmow_table import REGIONS, read
from peft_vision.data.splits import LabelledSets


@component
class FMoW(Data):
    """FMoW-WILDS in the folder `path`, which holds RELEASE_v1.1.txt."""

    path: Annotated[str, FILE]
    regions: Annotated[tuple[Literal[REGIONS], ...], Field(min_length=1)]

    def open(self) -> LabelledSets:
        """Return WILDS' splits train, id_val and id_test."""
        table = read(Path(self.path).expanduser().absolute(), prefix="data.")
        return LabelledSets(
            name=f"fmow {', '.join(self.regions)}",
            train=table.images("train", self.regions),
            val=table.images("id_val", self.regions),
            test=table.images("id_test", self.regions),
            classes=table.categories,
            remark="WILDS' splits train, id_val and id_test",
            gaps=True,
        )
