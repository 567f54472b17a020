"""Which reader makes a task of a data set as it was first published."""

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
"""By the names of `tasks.TASKS`."""
