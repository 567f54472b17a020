"""This module lists the readers of VTAB-1k's tasks for data sets as they were first published."""

from collections.abc import Mapping

from peft_vision.data.vtab.originals import (
    caltech101,
    camelyon,
    clevr,
    dmlab,
    dsprites,
    kitti,
    retinopathy,
    satellite,
    smallnorb,
    sun397,
    torchvision_releases,
)
from peft_vision.data.vtab.release import Reader

READERS: Mapping[str, Reader] = {
    "caltech101": caltech101.read,
    **torchvision_releases.READERS,
    "sun397": sun397.read,
    "camelyon": camelyon.read,
    "eurosat": satellite.eurosat,
    "resisc45": satellite.resisc45,
    "retinopathy": retinopathy.read,
    **clevr.READERS,
    "dmlab": dmlab.read,
    "kitti": kitti.read,
    **dsprites.READERS,
    **smallnorb.READERS,
}
"""The readers by the names of `tasks.TASKS`."""
