"""This module checks that a copy has the benchmark's numbers of images and classes."""

from peft_vision.core.config import ConfigError
from peft_vision.data.divide import without_images
from peft_vision.data.vtab.release import Release
from peft_vision.data.vtab.tasks import TRAIN, VAL, VtabTask

_WAY_OUT = "fetch it anew, or data.miniature=true rehearses with what there is"


def require_classes(release: Release, task: VtabTask, *, miniature: bool) -> None:
    """Raise ConfigError unless the number of classes is the task's, labels are in range and, except in a miniature,
    each class has a test image."""
    if len(release.classes) != task.num_classes:
        raise ConfigError(
            f"data: this copy of {task.title} has {len(release.classes)} classes, VTAB-1k's has {task.num_classes}"
        )
    for split, part in (("train", release.train), ("validation", release.val), ("test", release.test)):
        outside = part.labels[(part.labels < 0) | (part.labels >= task.num_classes)]
        if len(outside):
            raise ConfigError(
                f"data: {len(outside)} {split} images of {task.title} have labels such as {int(outside[0])}; "
                f"should be 0 to {task.num_classes - 1}"
            )
    missing = without_images(release.test, release.classes)
    if missing and not miniature:
        raise ConfigError(
            f"data: no test image of {len(missing)} of the {task.num_classes} classes of {task.title}, such as "
            f"{missing[0]!r}\n{_WAY_OUT}"
        )


def require_counts(release: Release, task: VtabTask) -> None:
    """Raise ConfigError unless there are 800 and 200 images, and as many test images as the task has."""
    found = (len(release.train), len(release.val), len(release.test))
    wanted = (TRAIN, VAL, task.test_size)
    if found != wanted:
        one, other = (" + ".join(f"{count:,}" for count in counts) for counts in (found, wanted))
        raise ConfigError(
            f"data: this copy of {task.title} has {one} images (train + validation + test), VTAB-1k's has {other}"
            f"\n{_WAY_OUT}"
        )
