"""This module reads a task of VTAB-1k from parquet files: a whole data set, or just its 800, 200 and test images.

root/vtab-1k/cifar/train-00000-of-00001.parquet, or without vtab-1k/, or from the hub
"""

from pathlib import Path

from peft_vision.core.config import ConfigError
from peft_vision.data.parquet import Stored, read_splits
from peft_vision.data.vtab.processed import folders
from peft_vision.data.vtab.release import Release
from peft_vision.data.vtab.tasks import VtabTask


def read_parquet(root: Path, task: VtabTask, stored: Stored) -> Release:
    """Return the release; classes are those of the files, or numbers up to the task's highest label if they have no
    names. ConfigError if the test split is not configured."""
    if stored.test is None:
        raise ConfigError("data.parquet.test: got null, should name the split of the test images")
    opened = read_splits(stored, None if stored.hub else _folder(root, task), prefix="data.parquet.")
    classes = opened.classes
    if all(name.isdecimal() for name in classes) and len(classes) < task.num_classes:
        classes = tuple(str(label) for label in range(task.num_classes))
    return Release(train=opened.train, val=opened.val, test=opened.test, classes=classes, files=(), remark="")


def _folder(root: Path, task: VtabTask) -> Path:
    places = folders(root, task)
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise ConfigError(
            f"data.root: no {task.title} in parquet files, neither {places[0]} nor {places[1]}\n"
            "put them there, or data.parquet.hub=NAME takes a data set from the Hugging Face hub"
        )
    return found
