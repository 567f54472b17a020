"""This module draws training, validation and test images: stratified (strata.py), seeded, and refused if a class would
be empty.

With `shots`, a few images per class: k for training and min(k, 4) for validation (as CoOp, Zhou et al., 2022,
arXiv:2109.01134). The seed draws an order of each class's images, and the first k are trained on, so those of 1 shot
are among those of 2. If the data set has no validation split, the last images in this order validate: the same ones
for 4 shots and 16.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from peft_vision.core.config import ConfigError
from peft_vision.data.draws import ranks
from peft_vision.data.pictures import Labelled
from peft_vision.data.splits import LabelledSets
from peft_vision.data.strata import draw_part, most_to_draw

TEST_SEED = 0
"""Seed of what is drawn of test images: fixed, so every `split_seed` is tested on the same images."""
MOST_TO_VALIDATE = 4
_NOT_COUNTED = {
    "several": "whose pictures have several labels each",
    "numbers": "whose labels are numbers",
    "masks": "whose labels are masks",
}


def test_part(labelled: Labelled, fraction: float) -> tuple[Labelled, Labelled]:
    """Return (the rest, the test part) of a data set that has no official test split."""
    count = round(fraction * len(labelled))
    most = most_to_draw(labelled)
    if not 1 <= count <= most:
        raise ConfigError(
            f"data: a test part of {fraction:g} of {len(labelled)} images is {count}; "
            f"1 to {most} would leave {_left(labelled)} to train on"
        )
    test, rest = draw_part(labelled, count, seed=TEST_SEED, leave=1)
    return rest, test


def _left(labelled: Labelled) -> str:
    return "every class an image" if labelled.labels_are == "classes" else "an image"


def with_test_part(sets: LabelledSets) -> LabelledSets:
    """Return the sets with a test part, drawn from the training pictures if the files name none."""
    if sets.test is not None:
        return sets
    train, test = test_part(sets.train, sets.test_fraction)
    of_what = "of each class" if sets.labels_are == "classes" else "of all"
    remark = f"test part drawn, {sets.test_fraction:g} {of_what}"
    return replace(sets, train=train, test=test, remark="; ".join(filter(None, (remark, sets.remark))))


def tested_on(sets: LabelledSets, count: int) -> LabelledSets:
    """Return the sets with at most `count` of the test images, drawn in the shares of their labels."""
    available = len(sets.test)
    if count >= available:
        return sets
    test, _ = draw_part(sets.test, count, seed=TEST_SEED)
    remark = f"{count} of {available} test images are scored (data.test_size)"
    return replace(sets, test=test, remark="; ".join(filter(None, (sets.remark, remark))))


def divided(
    sets: LabelledSets,
    *,
    train_size: int | None,
    shots: int | None,
    val_fraction: float,
    split_seed: int,
    stage: str,
) -> dict[str, Labelled]:
    """Return train, val and test in this order, each only if this stage has one. With `shots`, train is the same in all
    stages."""
    choosing = stage in ("all", "tune")
    if shots is not None:
        validate = choosing and (sets.val is not None or val_fraction > 0)
        train, val = few_shot(sets, shots=shots, validate=validate, seed=split_seed)
    else:
        train, val = _limited(sets, train_size, split_seed), sets.val
        if not choosing and val is not None:
            train = train.joined(val)
        elif choosing and val is None and val_fraction:
            train, val = _validation_part(train, val_fraction, split_seed)
    if stage == "final":
        return {"train": train, "test": sets.test}
    if stage == "peek":
        return {"train": train, "val": sets.test, "test": sets.test}
    if stage == "tune" and val is None:
        raise ConfigError("data.stage: tune is for choosing by validation images; set data.val_fraction")
    parts = {"train": train} | ({} if val is None else {"val": val})
    return parts if stage == "tune" else {**parts, "test": sets.test}


def refuse_unlearnable(parts: Mapping[str, Labelled], sets: LabelledSets) -> None:
    """Raise ConfigError unless every split has an image and every class has a training image. If `sets` may have gaps,
    this holds only for classes with a training image in `sets`."""
    empty = [split for split, part in parts.items() if not len(part)]
    if empty:
        raise ConfigError(f"data: no {empty[0]} image is left")
    allowed = without_images(sets.train, sets.classes) if sets.gaps else []
    missing = [name for name in without_images(parts["train"], sets.classes) if name not in allowed]
    if missing:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise ConfigError(f"data: no training image of class {missing[0]!r}{more}")


def without_images(part: Labelled, classes: tuple[str, ...]) -> list[str]:
    """Return the classes that no picture of `part` shows; none if the labels are numbers or masks, which are not
    read yet."""
    return [] if part.labels_are in ("numbers", "masks") else absent_classes(part.labels, classes)


def absent_classes(labels: Tensor, classes: tuple[str, ...]) -> list[str]:
    """Return the classes that do not occur in labels (n,), or in several each (n, C)."""
    counts = labels.sum(dim=0) if labels.ndim == 2 else torch.bincount(labels, minlength=len(classes))
    return [name for name, count in zip(classes, counts.tolist(), strict=True) if not count]


def _limited(sets: LabelledSets, train_size: int | None, split_seed: int) -> Labelled:
    if train_size is None:
        return sets.train
    available = len(sets.train)
    if sets.labels_are != "classes":
        if train_size > available:
            raise ConfigError(
                f"data.train_size: got {train_size}; {sets.name} has {available} labelled images (null: all)"
            )
    else:
        occurring = len(sets.classes) - len(without_images(sets.train, sets.classes))
        if not occurring <= train_size <= available:
            raise ConfigError(
                f"data.train_size: got {train_size}; {sets.name} has {occurring} classes and {available} "
                "labelled images, so it must lie between these (null: all)"
            )
    return draw_part(sets.train, train_size, seed=split_seed, least=1)[0]


def _validation_part(train: Labelled, val_fraction: float, split_seed: int) -> tuple[Labelled, Labelled]:
    count = round(val_fraction * len(train))
    most = most_to_draw(train)
    if not 1 <= count <= most:
        raise ConfigError(
            f"data.val_fraction: got {val_fraction:g}, {count} of {len(train)} labelled images; "
            f"1 to {most} would leave {_left(train)} to train on (0: no validation part)"
        )
    # a different seed: with the seed of train_size, the images drawn first would all go to validation
    val, rest = draw_part(train, count, seed=split_seed + 2**32, leave=1)
    return rest, val


def few_shot(sets: LabelledSets, *, shots: int, validate: bool, seed: int) -> tuple[Labelled, Labelled | None]:
    """Return the training and the validation images, the latter None if `validate` is false. ConfigError if a class has
    too few images, or if the labels are not one class each; if `sets` may have gaps, a class without any is passed
    over."""
    if sets.labels_are != "classes":
        raise ConfigError(
            f"data.shots: counts images of each class, and {sets.name} is a data set {_NOT_COUNTED[sets.labels_are]}\n"
            "data.shots=null, and data.train_size says how many images in all"
        )
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
