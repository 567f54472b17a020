"""DomainNet: domains that a run was not trained on (Peng et al., 2019, arXiv:1812.01754), each a shift."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from peft_vision.core.config import FILE, component
from peft_vision.data.domainnet import DOMAINS, DomainNetLists
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
