"""FMoW-WILDS: regions or years that a run was not trained on (Christie et al., 2018, arXiv:1711.07846; Koh et al.,
2021, arXiv:2012.07421), each region a shift."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from peft_vision.core.config import FILE, component
from peft_vision.data.fmow import REGIONS, read_table, require_table
from peft_vision.data.reading import located
from peft_vision.ood.base import OOD, Shift


@component
class ShiftedFMoW(OOD):
    """A set that has a shift for each region. `path`: the folder that holds RELEASE_v1.1.txt; `split`: a split of
    WILDS, id_* up to 2012, val up to 2015, test later."""

    path: Annotated[str, FILE]
    regions: Annotated[tuple[Literal[REGIONS], ...], Field(min_length=1)]
    split: Literal["id_val", "id_test", "val", "test"]

    def check(self) -> None:
        require_table(located(self.path), prefix="")

    def open(self) -> Mapping[str, Shift]:
        table = read_table(located(self.path), prefix="")
        return {region: Shift(table.images(self.split, (region,)), table.categories) for region in self.regions}
