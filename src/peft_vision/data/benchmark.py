"""A benchmark is a collection of data sets with published numbers of classes and images, in one folder of the user.

A data set may lie there in several forms, its sources; a reader turns each into a release, which must have the
benchmark's numbers unless it is a miniature.

The data sets of the two are listed here, with the numbers of classes and images of a complete copy.

VTAB-1k    19 tasks, 387,905 test images in all (Zhai et al., 2019, arXiv:1910.04867)
FGVC       five fine-grained data sets, as compared by VPT (Jia et al., 2022, arXiv:2203.12119)
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, ClassVar

from peft_vision.core.config import NOT_HASHED, ConfigError, component
from peft_vision.data.base import Data
from peft_vision.data.pictures import Labelled
from peft_vision.data.reading import located
from peft_vision.data.splits import Extent, LabelledSets

TRAIN, VAL = 800, 200
"""Numbers of training and validation images of VTAB-1k while settings are tuned; the final runs train on both."""


@dataclass(frozen=True)
class BenchmarkSet:
    """A data set of a benchmark. `title`: the name shown to people. `folder`: its name in the folder of data sets.
    `train`, `val`, `test`: numbers of images of the official splits. `small`: images of 96 pixels or fewer, which JPEG
    would degrade. `pictures`: folders that listed paths may leave out. `packed`: the archives published at `site`."""

    name: str
    title: str
    folder: str
    group: str
    num_classes: int
    train: int
    val: int
    test: int
    small: bool = False
    pictures: tuple[str, ...] = ()
    packed: tuple[str, ...] = ()
    site: str = ""


def _by_name(*entries: BenchmarkSet) -> dict[str, BenchmarkSet]:
    return {entry.name: entry for entry in entries}


def _task(
    name: str, title: str, folder: str, group: str, num_classes: int, test: int, small: bool = False
) -> BenchmarkSet:
    return BenchmarkSet(name, title, folder, group, num_classes, TRAIN, VAL, test, small)


TASKS = _by_name(
    _task("caltech101", "Caltech101", "caltech101", "natural", 102, 6_085),
    _task("cifar100", "CIFAR-100", "cifar", "natural", 100, 10_000, small=True),
    _task("dtd", "DTD", "dtd", "natural", 47, 1_880),
    _task("flowers102", "Flowers102", "oxford_flowers102", "natural", 102, 6_149),
    _task("pets", "Pets", "oxford_iiit_pet", "natural", 37, 3_669),
    _task("svhn", "SVHN", "svhn", "natural", 10, 26_032, small=True),
    _task("sun397", "Sun397", "sun397", "natural", 397, 21_750),
    _task("camelyon", "Patch Camelyon", "patch_camelyon", "specialized", 2, 32_768, small=True),
    _task("eurosat", "EuroSAT", "eurosat", "specialized", 10, 5_400, small=True),
    _task("resisc45", "Resisc45", "resisc45", "specialized", 45, 6_300),
    _task("retinopathy", "Retinopathy", "diabetic_retinopathy", "specialized", 5, 42_670),
    _task("clevr_count", "Clevr/count", "clevr_count", "structured", 8, 15_000),
    _task("clevr_distance", "Clevr/distance", "clevr_dist", "structured", 6, 15_000),
    _task("dmlab", "DMLab", "dmlab", "structured", 6, 22_735),
    _task("kitti", "KITTI/distance", "kitti", "structured", 4, 711),
    _task("dsprites_location", "dSprites/location", "dsprites_loc", "structured", 16, 73_728, small=True),
    _task("dsprites_orientation", "dSprites/orientation", "dsprites_ori", "structured", 16, 73_728, small=True),
    _task("smallnorb_azimuth", "SmallNORB/azimuth", "smallnorb_azi", "structured", 18, 12_150, small=True),
    _task("smallnorb_elevation", "SmallNORB/elevation", "smallnorb_ele", "structured", 9, 12_150, small=True),
)
"""The tasks of VTAB-1k; `folder` is that of the processed layout."""

COLLECTIONS = _by_name(
    BenchmarkSet(
        *("cub200", "CUB-200-2011", "CUB_200_2011", "fgvc", 200, 5_994, 0, 5_794),
        pictures=("images",),
        packed=("CUB_200_2011.tgz",),
        site="data.caltech.edu/records/65de6-vp158",
    ),
    BenchmarkSet(
        *("nabirds", "NABirds", "nabirds", "fgvc", 555, 23_929, 0, 24_633),
        pictures=("images",),
        packed=("nabirds.tar.gz",),
        site="dl.allaboutbirds.org/nabirds",
    ),
    BenchmarkSet(
        *("flowers102", "Oxford Flowers", "flowers-102", "fgvc", 102, 1_020, 1_020, 6_149),
        pictures=("jpg",),
        packed=("102flowers.tgz",),
        site="www.robots.ox.ac.uk/~vgg/data/flowers/102",
    ),
    BenchmarkSet(
        *("dogs", "Stanford Dogs", "stanford_dogs", "fgvc", 120, 12_000, 0, 8_580),
        pictures=("Images",),
        packed=("images.tar", "lists.tar"),
        site="vision.stanford.edu/aditya86/ImageNetDogs",
    ),
    BenchmarkSet(
        *("cars", "Stanford Cars", "stanford_cars", "fgvc", 196, 8_144, 0, 8_041),
        packed=("cars_train.tgz", "cars_test.tgz", "car_devkit.tgz"),
        site="a mirror, as told in github.com/pytorch/vision/issues/7545 (data.source=folders takes one with "
        "train/CLASS/ and test/CLASS/)",
    ),
)
"""The data sets of FGVC."""


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
