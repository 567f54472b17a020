"""This module draws 800 and 200 images of a whole release when the benchmark's own list is missing.

VTAB takes them from the front of a shuffled order, regardless of class: some classes of Sun397 have no training
image. This module does the same: each image is equally likely to be drawn.
"""

from dataclasses import replace

import numpy as np
import torch

from peft_vision.data.draws import bits
from peft_vision.data.vtab.release import Release
from peft_vision.data.vtab.tasks import TRAIN, VAL

_SHARE = TRAIN / (TRAIN + VAL)  # the training share of a release with fewer than 1,000 images


def drawn(release: Release, *, seed: int) -> Release:
    """Return a release whose 800 and 200 images are a function of `seed` and the number of images; smaller parts if
    there are fewer images."""
    order = _shuffled(len(release.train), seed=seed)
    enough = release.val is not None or len(order) >= TRAIN + VAL
    count = TRAIN if enough else round(_SHARE * len(order))
    train = release.train.subset(order[:count].sort().values)
    if release.val is None:
        return replace(release, train=train, val=release.train.subset(order[count : count + VAL].sort().values))
    val = release.val.subset(_shuffled(len(release.val), seed=seed)[:VAL].sort().values)
    return replace(release, train=train, val=val)


def _shuffled(count: int, *, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.argsort(bits(torch.arange(count), seed=seed, stream=0), kind="stable"))
