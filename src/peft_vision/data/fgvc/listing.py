"""This module holds a local copy of a data set of FGVC and what it states about its pictures."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from peft_vision.data.benchmark import Release, refuse_shared
from peft_vision.data.benchmark_tables import BenchmarkSet
from peft_vision.data.pictures import Files, labelled
from peft_vision.data.reading import absent, missing_among, require

Label = int | str


@dataclass(frozen=True)
class Copy:
    """A copy of the data set `entry` in its folder below `root`."""

    root: Path
    entry: BenchmarkSet

    @property
    def folder(self) -> Path:
        return self.root / self.entry.folder

    def require(self, *names: str) -> None:
        """Raise ConfigError unless these files and folders exist in the folder."""
        require(self.root, self._below(names), what=f"parts of {self.entry.title}", **self._origin)

    def require_pictures(self, paths: list[str], *, by: str) -> None:
        """Raise ConfigError unless a picture lies at each of `paths` below the folder, which the files `by` name."""
        if missing := missing_among(paths, self.folder):
            raise absent(self.root, self._below(sorted(missing)), len(paths), what=f"images of {by}", **self._origin)

    def _below(self, names: list[str] | tuple[str, ...]) -> list[str]:
        return [f"{self.entry.folder}/{name}" for name in names]

    @property
    def _origin(self) -> dict[str, str | tuple[str, ...]]:
        return {"source": f"{self.entry.title} is at {self.entry.site}", "archives": self.entry.packed}


@dataclass(frozen=True)
class Listing:
    """The contents of a copy. `splits`: for "train", "test" and perhaps "val", the label of each picture by its path
    below the copy's folder. Labels are all integers or all strings, in any range. `names`: the class names by label.
    `files`: the files that state this, for checksums."""

    splits: Mapping[str, Mapping[str, Label]]
    names: Mapping[Label, str]
    files: tuple[Path, ...]

    def release(self, copy: Copy, remark: str) -> Release:
        """Return the release. ConfigError unless each listed picture exists, and is in one split only. Class ids follow
        the sorted labels of all splits together, so a split that lacks a class has the same ids."""
        listed = ", ".join(file.name for file in self.files) or copy.entry.title
        copy.require_pictures([path for labels in self.splits.values() for path in labels], by=listed)
        refuse_shared(copy.folder, self.splits, key="data.source")
        ids = {label: place for place, label in enumerate(sorted(self.names))}
        parts = {
            split: labelled(Files(copy.folder, list(labels)), [ids[label] for label in labels.values()])
            for split, labels in self.splits.items()
        }
        return Release(parts["train"], parts.get("val"), parts["test"], self._classes(), self.files, remark)

    def _classes(self) -> tuple[str, ...]:
        """Return the class names in the order of their labels; classes with the same name have their labels added."""
        counts, names = Counter(self.names.values()), self.names
        return tuple(
            names[label] if counts[names[label]] == 1 else f"{names[label]} ({label})" for label in sorted(names)
        )
