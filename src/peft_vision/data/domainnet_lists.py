"""This module reads DomainNet's lists of pictures and labels in six domains (Peng et al., 2019, arXiv:1812.01754).

A list belongs to one domain and split; each line names a picture: clipart/airplane/clipart_002_000001.jpg 1
"""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from peft_vision.core.config import ConfigError
from peft_vision.core.output import one_line
from peft_vision.core.records import read_regular
from peft_vision.data.domainnet_names import SENTRY40
from peft_vision.data.pictures import Files, Labelled, labelled

_log = logging.getLogger("peft_vision")
_LABEL = re.compile(r"[0-9]{1,9}")
_GB = {"clipart": 1.3, "infograph": 4.0, "painting": 3.7, "quickdraw": 0.4, "real": 5.6, "sketch": 2.5}  # packed
DOMAINS = tuple(_GB)


@dataclass(frozen=True)
class Listed:
    """The lines of the list `file`: each holds a picture's path, the name of its class and its label."""

    file: Path
    lines: list[tuple[str, str, int]]


@dataclass(frozen=True)
class Lists:
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
        for key, path in (
            ("path", self.root),
            ("path", self.root / domain),
            *(("lists", self._file(domain, split)) for split in splits),
        ):
            if not path.exists():
                raise ConfigError(f"{self.prefix}{key}: no {path}\n{self._origin(domain)}")

    def read(self, domain: str, split: str) -> Listed:
        file = self._file(domain, split)
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
        return Listed(file, lines)

    def classes(self, lists: Iterable[Listed], which: str) -> tuple[str, ...]:
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

    def pictures(self, listed: Listed, classes: tuple[str, ...]) -> Labelled:
        """Return the listed pictures of `classes`, labelled by the position of their class. ConfigError for none."""
        places = {name: place for place, name in enumerate(classes)}
        kept = [(path, places[name]) for path, name, _ in listed.lines if name in places]
        if not kept:
            raise ConfigError(f"{self.prefix}lists: {listed.file} has no picture of the {len(classes)} classes")
        paths, labels = zip(*kept, strict=True)
        if not (self.root / paths[0]).is_file():
            domain = paths[0].split("/")[0]
            raise ConfigError(
                f"{self.prefix}path: no {self.root / paths[0]}, which {listed.file} names\n{self._origin(domain)}"
            )
        return labelled(Files(self.root, list(paths)), labels)

    def _file(self, domain: str, split: str) -> Path:
        return self.root / self.pattern.replace("{domain}", domain).replace("{split}", split)

    def _origin(self, domain: str) -> str:
        return (
            f"DomainNet is at ai.bu.edu/M3SDA: of its cleaned version, unpack {domain}.zip ({_GB[domain]} GB) to "
            f"{self.root}/{domain}/CLASS/, and put its lists at {self.root}/{self.pattern}"
        )
