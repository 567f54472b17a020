"""This module has the sets that are other parts of a run's own collection: domains (DomainNet: Peng et al., 2019,
arXiv:1812.01754), subclasses (BREEDS: Santurkar et al., 2021, arXiv:2008.04859), and regions or years (FMoW-WILDS:
Christie et al., 2018, arXiv:1711.07846; Koh et al., 2021, arXiv:2012.07421) that the run was not trained on."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from peft_vision.core.config import FILE, component
from peft_vision.data.domainnet import DOMAINS, DomainNetLists
from peft_vision.data.fmow import REGIONS, read_table, require_table
from peft_vision.data.folders import read_folders, require_folders
from peft_vision.data.imagenet import NAMES, SOURCE, subclass_labels, superclasses
from peft_vision.data.reading import located
from peft_vision.ood.base import OOD, Shift


@component
class ShiftedDomainNet(OOD):
    """A set that has a shift for each domain. `lists`: the path of the domains' lists within `path`, a text with
    {domain} and {split}."""

    path: Annotated[str, FILE]
    domains: Annotated[tuple[Literal[DOMAINS], ...], Field(min_length=1)]
    split: Literal["train", "test"]
    lists: str
    classes: Literal["all", "sentry40"]

    def check(self) -> None:
        for domain in self.domains:
            self._lists().check(domain, self.split)

    def open(self) -> Mapping[str, Shift]:
        lists = self._lists()
        listed = {domain: lists.read(domain, self.split) for domain in self.domains}
        classes = lists.classes(listed.values(), self.classes)
        return {domain: Shift(lists.pictures(listing, classes), classes) for domain, listing in listed.items()}

    def _lists(self) -> DomainNetLists:
        return DomainNetLists(located(self.path), self.lists, prefix="")


@component
class ShiftedBreeds(OOD):
    """A set of the target subclasses, labelled by superclass. `path`: ImageNet's folder, the one that holds val/."""

    path: Annotated[str, FILE]
    name: Literal[NAMES]

    def check(self) -> None:
        require_folders(located(self.path) / "val", self._labels(), alone=False, key="path", source=SOURCE)

    def open(self) -> Mapping[str, Shift]:
        root = located(self.path)
        target = read_folders(root, root / "val", self._labels(), key="path")
        return {"": Shift(target, superclasses(self.name))}

    def _labels(self) -> dict[str, int]:
        return subclass_labels(self.name, "target")


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
