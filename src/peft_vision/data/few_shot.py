"""This module draws a few images per class: k for training and min(k, 4) for validation (as CoOp, Zhou et al., 2022,
arXiv:2109.01134).

The seed draws an order of each class's images, and the first k are trained on, so those of 1 shot are among those of
2. If the data set has no validation split, the last images in this order validate: the same ones for 4 shots and 16.
"""

import numpy as np
import torch

from peft_vision.core.config import ConfigError
from peft_vision.data.pictures import Labelled
from peft_vision.data.splits import LabelledSets
from peft_vision.data.stratify import ranks

MOST_TO_VALIDATE = 4


def few_shot(sets: LabelledSets, *, shots: int, validate: bool, seed: int) -> tuple[Labelled, Labelled | None]:
    """Return the training and the validation images, the latter None if `validate` is false. ConfigError if a class has
    too few images; if `sets` may have gaps, a class without any is passed over."""
    train, validating = sets.train, min(shots, MOST_TO_VALIDATE) if validate else 0
    from_train = validating if sets.val is None else 0
    _refuse_too_few(sets, train, shots=shots, validating=from_train)
    places, sizes = ranks(train.labels, seed=seed), torch.bincount(train.labels).numpy()
    drawn = _at(train, places < shots)
    if not validate:
        return drawn, None
    if sets.val is None:
        return drawn, _at(train, places >= sizes[train.labels.numpy()] - validating)
    _refuse_too_few(sets, sets.val, shots=0, validating=validating)
    return drawn, _at(sets.val, ranks(sets.val.labels, seed=seed) < validating)


def _at(part: Labelled, chosen: np.ndarray) -> Labelled:
    return part.subset(torch.from_numpy(np.flatnonzero(chosen)))


def _refuse_too_few(sets: LabelledSets, part: Labelled, *, shots: int, validating: int) -> None:
    counts = torch.bincount(part.labels, minlength=len(sets.classes)).tolist()
    few = {
        name: count
        for name, count in zip(sets.classes, counts, strict=True)
        if count < shots + validating and (count or not sets.gaps)
    }
    if not few:
        return
    name, count = min(few.items(), key=lambda item: item[1])
    tasks = {"train on": shots, "validate on": validating}
    needed = " and ".join(f"{number} to {task}" for task, number in tasks.items() if number)
    others = f"; {len(few)} of {len(sets.classes)} classes have too few" if few.keys() - {name} else ""
    split = "training" if part is sets.train else "validation"
    remedy = " or data.val_fraction=0, which takes none to validate on" if shots and validating else ""
    raise ConfigError(
        f"data.shots: class {name!r} of {sets.name} has {count} {split} images, not {needed}{others}\n"
        f"set a smaller data.shots{remedy}"
    )
