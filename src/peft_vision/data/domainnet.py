"""This module reads one domain of DomainNet with its official training and test lists (Peng et al., 2019,
arXiv:1812.01754).

path/sketch/airplane/sketch_002_000001.jpg  path/sketch_train.txt  path/sketch_test.txt
"""

from pathlib import Path
from typing import Annotated, Literal

from peft_vision.core.config import FILE, component
from peft_vision.data.base import Data
from peft_vision.data.domainnet_lists import DOMAINS, Lists
from peft_vision.data.splits import LabelledSets


@component
class DomainNet(Data):
    """A domain of DomainNet; `lists` is the pattern of its lists' paths below `path`, with {domain} and {split} in
    it."""

    path: Annotated[str, FILE]
    domain: Literal[DOMAINS]
    lists: str
    classes: Literal["all", "sentry40"]

    def open(self) -> LabelledSets:
        """Return the domain's splits; class ids follow the labels in the lists."""
        lists = Lists(Path(self.path).expanduser().absolute(), self.lists, prefix="data.")
        lists.check(self.domain, "train", "test")
        train, test = lists.read(self.domain, "train"), lists.read(self.domain, "test")
        classes = lists.classes((train, test), self.classes)
        return LabelledSets(
            name=f"domainnet {self.domain}",
            train=lists.pictures(train, classes),
            val=None,
            test=lists.pictures(test, classes),
            classes=classes,
            remark="",
            gaps=self.classes == "all",  # as published, painting has t-shirts in the test list only
        )
