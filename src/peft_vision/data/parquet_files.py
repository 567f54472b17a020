"""This module reads the splits in a folder of parquet files as Hugging Face lays them out, and their labels.

folder/data/train-00000-of-00002.parquet  folder/data/test-00000-of-00001.parquet     a split is the beginning of a name
folder/train/0000.parquet                                                             or a folder
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from peft_vision.core.config import ConfigError, component
from peft_vision.data.hub_folder import fetch
from peft_vision.data.parquet_labels import ParquetLabels, classes_of, read_labels
from peft_vision.data.parquet_rows import ParquetRows
from peft_vision.data.parquet_shards import files
from peft_vision.data.pictures import Labelled, labelled


@component
class Stored:
    """A data set stored as parquet files. `hub`: its name on the hub; None: the files are in a folder. `subset`: a
    folder below. The others are the names of the image and label columns and of the splits; None: there is no such
    split."""

    hub: str | None
    subset: str | None
    image: str
    label: str
    train: str
    val: str | None
    test: str | None


@dataclass(frozen=True)
class Opened:
    """The splits of opened files: `classes` are in label order, and `files` are all files that were opened."""

    train: Labelled
    val: Labelled | None
    test: Labelled | None
    classes: tuple[str, ...]
    files: tuple[Path, ...]


def read(stored: Stored, folder: Path | None, *, prefix: str) -> Opened:
    """Read the splits in `folder`, or from the hub if `stored.hub` is set. `prefix` precedes config keys in messages,
    such as "data."."""
    names = {"train": stored.train, "val": stored.val, "test": stored.test}
    if stored.hub is not None:
        folder = fetch(stored.hub, stored.subset, enough=lambda folder: _whole(folder, names.values()))
    elif stored.subset is not None:
        folder /= stored.subset
    splits = {
        key: [
            read_labels(folder, path, image=stored.image, label=stored.label, prefix=prefix)
            for path in files(folder, name, key=f"{prefix}{key}")
        ]
        for key, name in names.items()
        if name is not None
    }
    classes = classes_of(splits, f"{prefix}label")
    parts = {key: _labelled(file_labels, classes, stored, f"{prefix}label") for key, file_labels in splits.items()}
    return Opened(
        train=parts["train"],
        val=parts.get("val"),
        test=parts.get("test"),
        classes=classes,
        files=tuple(labels.path for file_labels in splits.values() for labels in file_labels),
    )


def _labelled(files: Sequence[ParquetLabels], classes: tuple[str, ...], stored: Stored, key: str) -> Labelled:
    places = [place for labels in files for place in labels.places(classes, key)]
    return labelled(ParquetRows([labels.file for labels in files], stored.image), places)


def _whole(folder: Path, splits: Iterable[str | None]) -> bool:
    """Return whether every given split (None is skipped) has all its files."""
    try:
        return all(files(folder, split, key="") for split in splits if split is not None)
    except ConfigError:
        return False
