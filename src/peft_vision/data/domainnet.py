"""This module reads DomainNet's six domains with their official training and test lists (Peng et al., 2019,
arXiv:1812.01754).

path/sketch/airplane/sketch_002_000001.jpg  path/sketch_train.txt  path/sketch_test.txt

A list belongs to one domain and split; each line names a picture: clipart/airplane/clipart_002_000001.jpg 1
"""

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from peft_vision.core.config import FILE, ConfigError, component
from peft_vision.core.output import one_line
from peft_vision.core.records import read_regular
from peft_vision.data.base import Data
from peft_vision.data.pictures import Files, Labelled, labelled
from peft_vision.data.reading import located, require
from peft_vision.data.splits import LabelledSets

_SENTRY40 = """
airplane ambulance apple backpack banana bathtub bear bed bee bicycle bird book bridge bus cake calculator camera car
cat chair clock cow dog dolphin duck elephant fence fork horse house rabbit scissors strawberry table telephone truck
butterfly sheep drums donut
"""
SENTRY40 = tuple(_SENTRY40.split())


_log = logging.getLogger("peft_vision")
_LABEL = re.compile(r"[0-9]{1,9}")
_GB = {"clipart": 1.3, "infograph": 4.0, "painting": 3.7, "quickdraw": 0.4, "real": 5.6, "sketch": 2.5}  # packed
DOMAINS = tuple(_GB)


@dataclass(frozen=True)
class DomainNetList:
    """The lines of the list `file`: each holds a picture's path, the name of its class and its label."""

    file: Path
    lines: list[tuple[str, str, int]]


@dataclass(frozen=True)
class DomainNetLists:
    """A copy of DomainNet in `root` with its lists at `pattern` below. `prefix` precedes config keys in messages, such
    as "data."."""

    root: Path
    pattern: str
    prefix: str

    def check(self, domain: str, *splits: str) -> None:
        """Raise ConfigError unless pictures and lists exist."""
        if not all(field in self.pattern for field in ("{domain}", "{split}")):
            raise ConfigError(
                f"{self.prefix}lists: got {self.pattern!r}, must hold {{domain}} and {{split}}, "
                "as in 'txt/{domain}_{split}.txt'"
            )
        self._require([f"{domain}/"], domain, key="path")
        self._require([self._file(domain, split) for split in splits], domain, key="lists")

    def read(self, domain: str, split: str) -> DomainNetList:
        file = self.root / self._file(domain, split)
        try:
            texts = read_regular(file).decode("utf-8").rstrip().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.prefix}lists: cannot read {file} ({error}), a text") from error
        lines: list[tuple[str, str, int]] = []
        numbers: dict[str, int] = {}
        for number, text in enumerate(texts, start=1):
            numbers.setdefault(text, number)
        if repeated := len(texts) - len(numbers):
            _log.warning("%d lines of %s stand there twice; each counts once", repeated, file)
        for text, number in numbers.items():
            path, _, label = text.rpartition(" ")
            parts = path.split("/")
            if len(parts) != 3 or parts[0] != domain or not all(parts) or not _LABEL.fullmatch(label):
                found = one_line(repr(text), longest=100)
                raise ConfigError(
                    f"{self.prefix}lists: {file} line {number} is {found}, should be '{domain}/CLASS/FILE LABEL'"
                )
            lines.append((path, parts[1], int(label)))
        return DomainNetList(file, lines)

    def classes(self, lists: Iterable[DomainNetList], which: str) -> tuple[str, ...]:
        """Return the class names in `lists` in label order, or the 40 of SENTRY. ConfigError if the lists disagree."""
        names: dict[int, str] = {}
        labels: dict[str, int] = {}
        for listed in lists:
            for number, (_, name, label) in enumerate(listed.lines, start=1):
                known = names.setdefault(label, name), labels.setdefault(name, label)
                if known != (name, label):
                    other = f"{known[0]!r} with {label}" if known[0] != name else f"{name!r} with {known[1]}"
                    raise ConfigError(
                        f"{self.prefix}lists: {listed.file} line {number} pairs class {name!r} with label {label}, "
                        f"another line {other}"
                    )
        return SENTRY40 if which == "sentry40" else tuple(names[label] for label in sorted(names))

    def pictures(self, listed: DomainNetList, classes: tuple[str, ...]) -> Labelled:
        """Return the listed pictures of `classes`, labelled by the position of their class. ConfigError for none."""
        places = {name: place for place, name in enumerate(classes)}
        kept = [(path, places[name]) for path, name, _ in listed.lines if name in places]
        if not kept:
            raise ConfigError(f"{self.prefix}lists: {listed.file} has no picture of the {len(classes)} classes")
        paths, labels = zip(*kept, strict=True)
        self._require(paths[:1], paths[0].split("/")[0], key="path")
        return labelled(Files(self.root, list(paths)), labels)

    def _file(self, domain: str, split: str) -> str:
        """Return the path of a list below `root`."""
        return self.pattern.replace("{domain}", domain).replace("{split}", split)

    def _require(self, names: Sequence[str], domain: str, *, key: str) -> None:
        source = (
            f"DomainNet is at ai.bu.edu/M3SDA: of its cleaned version, unpack {domain}.zip ({_GB[domain]} GB) to "
            f"{self.root}/{domain}/CLASS/, and put its lists at {self.root}/{self.pattern}"
        )
        require(self.root, names, what=f"parts of DomainNet's {domain}", source=source, key=f"{self.prefix}{key}")


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
        lists = DomainNetLists(located(self.path), self.lists, prefix="data.")
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
