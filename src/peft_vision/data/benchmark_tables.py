"""This module lists the data sets of the two benchmarks, with the numbers of classes and images of a complete copy.

VTAB-1k    19 tasks, 387,905 test images in all (Zhai et al., 2019, arXiv:1910.04867)
FGVC       five fine-grained data sets, as compared by VPT (Jia et al., 2022, arXiv:2203.12119)
"""

from dataclasses import dataclass

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
