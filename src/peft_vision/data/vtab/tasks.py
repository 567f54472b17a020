"""This module lists VTAB-1k's 19 tasks (Zhai et al., 2019, arXiv:1910.04867): classes, group and test size, which a
complete copy must match; 387,905 test images in all."""

from dataclasses import dataclass
from typing import Literal

TRAIN, VAL = 800, 200
"""Numbers of training and validation images while settings are tuned; the final runs train on both."""


@dataclass(frozen=True)
class VtabTask:
    """A task of VTAB-1k. `folder`: its name in the processed layout. `small`: images of 96 pixels or fewer, which JPEG
    would degrade. `title`: the name shown to people."""

    name: str
    title: str
    folder: str
    group: Literal["natural", "specialized", "structured"]
    num_classes: int
    test_size: int
    small: bool = False


TASKS = {
    task.name: task
    for task in (
        VtabTask("caltech101", "Caltech101", "caltech101", "natural", 102, 6_085),
        VtabTask("cifar100", "CIFAR-100", "cifar", "natural", 100, 10_000, small=True),
        VtabTask("dtd", "DTD", "dtd", "natural", 47, 1_880),
        VtabTask("flowers102", "Flowers102", "oxford_flowers102", "natural", 102, 6_149),
        VtabTask("pets", "Pets", "oxford_iiit_pet", "natural", 37, 3_669),
        VtabTask("svhn", "SVHN", "svhn", "natural", 10, 26_032, small=True),
        VtabTask("sun397", "Sun397", "sun397", "natural", 397, 21_750),
        VtabTask("camelyon", "Patch Camelyon", "patch_camelyon", "specialized", 2, 32_768, small=True),
        VtabTask("eurosat", "EuroSAT", "eurosat", "specialized", 10, 5_400, small=True),
        VtabTask("resisc45", "Resisc45", "resisc45", "specialized", 45, 6_300),
        VtabTask("retinopathy", "Retinopathy", "diabetic_retinopathy", "specialized", 5, 42_670),
        VtabTask("clevr_count", "Clevr/count", "clevr_count", "structured", 8, 15_000),
        VtabTask("clevr_distance", "Clevr/distance", "clevr_dist", "structured", 6, 15_000),
        VtabTask("dmlab", "DMLab", "dmlab", "structured", 6, 22_735),
        VtabTask("kitti", "KITTI/distance", "kitti", "structured", 4, 711),
        VtabTask("dsprites_location", "dSprites/location", "dsprites_loc", "structured", 16, 73_728, small=True),
        VtabTask("dsprites_orientation", "dSprites/orientation", "dsprites_ori", "structured", 16, 73_728, small=True),
        VtabTask("smallnorb_azimuth", "SmallNORB/azimuth", "smallnorb_azi", "structured", 18, 12_150, small=True),
        VtabTask("smallnorb_elevation", "SmallNORB/elevation", "smallnorb_ele", "structured", 9, 12_150, small=True),
    )
}
