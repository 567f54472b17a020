"""A benchmark is a collection of data sets with published numbers of classes and images, in one folder of the user.

A data set may lie there in several forms, its sources; a reader turns each into a release, which must have the
benchmark's numbers unless it is a miniature.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, ClassVar

from peft_vision.core.config import NOT_HASHED, ConfigError, component
from peft_vision.data.base import Data
from peft_vision.data.benchmark_tables import BenchmarkSet
from peft_vision.data.pictures import Labelled
from peft_vision.data.reading import located
from peft_vision.data.splits import Extent, LabelledSets

WAY_OUT = "fetch it anew, or data.miniature=true rehearses with what there is"


@dataclass(frozen=True)
class Release:
    """The images of a data set.

    `train`: the images that training images are chosen from. `val`: the same for validation images; None: they are
    chosen from `train` too. `test`: all of it is used for testing. `files`: the files that define splits and labels,
    for checksums. `remark`: how it differs from the benchmark, such as a drawn test part; empty: not at all. `chosen`:
    `train` and `val` are exactly the 800 and 200 images of VTAB-1k.
    """

    train: Labelled
    val: Labelled | None
    test: Labelled
    classes: tuple[str, ...]
    files: tuple[Path, ...]
    remark: str
    chosen: bool = False


Reader = Callable[[Path], Release]
"""A function from the folder that holds data sets to a release. Its ConfigError for missing or wrong files says what
was expected and where to get it."""


@component
class BenchmarkData(Data):
    """A data set of a benchmark. `root`: the folder that holds data sets. `source`: the form in which it lies there.
    `miniature`: a rehearsal, with other numbers of images than the benchmark."""

    title: ClassVar[str]
    gaps: ClassVar[bool]
    """True for a benchmark whose published splits may leave classes without training images."""

    root: Annotated[str, NOT_HASHED]
    source: str
    miniature: bool

    @abstractmethod
    def entry(self) -> BenchmarkSet:
        """Return the published names and numbers."""

    @abstractmethod
    def release(self) -> tuple[Release, Mapping[str, str]]:
        """Return the images that a run may use, and what a result should tell about them, by topic. ConfigError for a
        copy that does not match the benchmark in more than numbers of images."""

    def open(self) -> LabelledSets:
        """Return the splits. ConfigError for a copy that does not match the benchmark."""
        entry, (release, facts) = self.entry(), self.release()
        if self.miniature:
            facts = {**facts, "miniature": "proves nothing about accuracy"}
        else:
            self.require_counts(release)
        return LabelledSets(
            name=f"{self.title}{entry.title} ({self.source})",
            train=release.train,
            val=release.val,
            test=release.test,
            classes=release.classes,
            remark="; ".join(text if key == "remark" else f"{key}: {text}" for key, text in facts.items()),
            gaps=self.gaps,
            group=entry.group,
            provenance={"source": self.source, **facts},
            files=release.files,
        )

    def known(self) -> Extent | None:
        if self.miniature:
            return None
        entry = self.entry()
        val = entry.val or round(self.val_fraction * entry.train)
        images = {"train": entry.train + entry.val - val, "val": val, "test": entry.test}
        return Extent(images, entry.num_classes)

    def folder(self) -> Path:
        """Return the folder that holds data sets."""
        return located(self.root)

    def require_counts(self, release: Release) -> None:
        """Raise ConfigError unless the numbers of classes and of images of each split are the benchmark's. If it has no
        validation split, one may have been carved from the training images."""
        entry = self.entry()
        sizes = [0 if part is None else len(part) for part in (release.train, release.val, release.test)]
        found, wanted = (len(release.classes), *sizes), (entry.num_classes, entry.train, entry.val, entry.test)
        if not entry.val:
            found, wanted = ((classes, train + val, test) for classes, train, val, test in (found, wanted))
        if found != wanted:
            (classes, *images), (right_classes, *right_images) = found, wanted
            one, other = (" + ".join(f"{count:,}" for count in counts) for counts in (images, right_images))
            splits = "train + validation + test" if entry.val else "train and validation + test"
            raise ConfigError(
                f"data.root: this copy of {entry.title} has {classes:,} classes and {one} images ({splits}), the "
                f"benchmark's has {right_classes:,} and {other}\n{WAY_OUT}"
            )


def refuse_shared(folder: Path, lists: Mapping[str, Iterable[str]], *, key: str = "data.root") -> None:
    """Raise ConfigError for an image of `folder` that two of `lists` name. Content is not compared, because some data
    sets have equal images, such as dSprites' squares turned by a quarter."""
    for (one, paths), (other, others) in combinations(lists.items(), 2):
        if shared := set(paths).intersection(others):
            more = ", ..." if len(shared) > 1 else ""
            raise ConfigError(
                f"{key}: {one} and {other} of {folder} both name {len(shared):,} images: {min(shared)}{more}"
            )
