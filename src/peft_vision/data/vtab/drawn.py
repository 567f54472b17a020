"""800 and 200 images of a whole release, for want of the benchmark's own list.

VTAB takes them off the front of a shuffled order, whatever their classes: some classes of Sun397 have no training
image. So does this: any image is as likely to be drawn as any other.
"""

from dataclasses import replace

import numpy as np
import torch

from peft_vision.data.counter_random import bits
from peft_vision.data.vtab.release import Release
from peft_vision.data.vtab.tasks import TRAIN, VAL

_SHARE = TRAIN / (TRAIN + VAL)  # of a miniature, which has fewer


def drawn(release: Release, *, seed: int) -> Release:
    """A function of `seed` and of the number of images. Fewer than 800 and 200 where there are not as many."""
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
