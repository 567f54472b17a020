"""This module lists the five data sets of FGVC (fine-grained visual classification) as compared by VPT (Jia et al.,
2022, arXiv:2203.12119), with the numbers of classes and images of a complete copy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Collection:
    """A data set of FGVC. `folder`: its name in the folder of data sets. `pictures`: folders in it that listed paths
    may leave out. `train`, `val`, `test`: numbers of images of the official splits. `packed`: the archives published at
    `site`."""

    name: str
    title: str
    folder: str
    pictures: tuple[str, ...]
    num_classes: int
    train: int
    val: int
    test: int
    packed: tuple[str, ...]
    site: str


COLLECTIONS = {
    collection.name: collection
    for collection in (
        Collection(
            name="cub200",
            title="CUB-200-2011",
            folder="CUB_200_2011",
            pictures=("images",),
            num_classes=200,
            train=5_994,
            val=0,
            test=5_794,
            packed=("CUB_200_2011.tgz",),
            site="data.caltech.edu/records/65de6-vp158",
        ),
        Collection(
            name="nabirds",
            title="NABirds",
            folder="nabirds",
            pictures=("images",),
            num_classes=555,
            train=23_929,
            val=0,
            test=24_633,
            packed=("nabirds.tar.gz",),
            site="dl.allaboutbirds.org/nabirds",
        ),
        Collection(
            name="flowers102",
            title="Oxford Flowers",
            folder="flowers-102",
            pictures=("jpg",),
            num_classes=102,
            train=1_020,
            val=1_020,
            test=6_149,
            packed=("102flowers.tgz",),
            site="www.robots.ox.ac.uk/~vgg/data/flowers/102",
        ),
        Collection(
            name="dogs",
            title="Stanford Dogs",
            folder="stanford_dogs",
            pictures=("Images",),
            num_classes=120,
            train=12_000,
            val=0,
            test=8_580,
            packed=("images.tar", "lists.tar"),
            site="vision.stanford.edu/aditya86/ImageNetDogs",
        ),
        Collection(
            name="cars",
            title="Stanford Cars",
            folder="stanford_cars",
            pictures=(),
            num_classes=196,
            train=8_144,
            val=0,
            test=8_041,
            packed=("cars_train.tgz", "cars_test.tgz", "car_devkit.tgz"),
            site="a mirror, as told in github.com/pytorch/vision/issues/7545 (data.source=folders takes one with "
            "train/CLASS/ and test/CLASS/)",
        ),
    )
}
