"""This module keeps a run's predictions in predictions.parquet, a row for each image of validation and test, and reads
them back. The columns, by the kind of the labels:

all      split (val or test), index (in its data set), path (below the folder of the data set; null without), loss
classes  truth, prediction, probability (of the prediction), and the likely classes
several  truth, prediction (lists of classes), and the likely classes
numbers  truth, prediction (a number, or a list of the targets)
masks    mean_iou, pixel_accuracy (null where no pixel is labelled), and the confusion of the pixels: how many,
         `pixels`, are in each of `cells`: true class x number of classes + predicted class, both counted from 0

The likely classes are `probabilities`, of each class in order; or, of more than ALL_CLASSES classes, `top_classes` and
`top_probabilities`, likeliest first. The file's metadata name the classes in order, and the run by its identity;
result.json has its checksum.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from scipy.sparse import csr_matrix

from peft_vision.core.config import ConfigError
from peft_vision.core.output import printable
from peft_vision.core.records import Bounds, Name, Record, Unreadable, exists, parse_json, read_bytes, validated
from peft_vision.data.pictures import LabelKind, Labelled
from peft_vision.objective.predictions import ALL_CLASSES, LIKELIEST, KeptPredictions
from peft_vision.runs.run import PREDICTIONS

_KEY = b"peft_vision"  # of the metadata
_FACTS = Bounds(size=2**24, depth=4, text=1000, values=200_000)
_LARGEST = 2**30  # bytes of a file
_UNPACKED = 2**33  # bytes that a file may say to hold
_MOST_ROWS, _MOST_GROUPS = 10_000_000, 10_000
_MOST_PIXELS = 2**40  # of a picture
_MOST_VALUES = 2**30  # in a column, and of a table of labels
_REMEDY = "delete it, or move it away: figures of each class are then left out"
_SLACK = 1e-4  # by which rounding puts a probability above 1


class PredictionFacts(Record):
    """The metadata of the file. `identity`: of the run; `classes`: their names, or those of targets, in order."""

    version: Literal[1]
    identity: Name
    labels_are: LabelKind
    classes: list[Name] = Field(min_length=1, max_length=100_000)


def check_writing() -> None:
    """Raise ConfigError if what writes predictions is not installed."""
    if find_spec("pyarrow") is None:
        raise ConfigError("trainer.keep_predictions: pyarrow writes them; pip install pyarrow, or set it to false")


def write_predictions(
    path: Path, kept: Mapping[str, KeptPredictions], pictures: Mapping[str, Labelled], identity: str
) -> None:
    """Write the predictions by split, of which `pictures` has the pictures in the same order, of the run of this
    identity."""
    import pyarrow as arrow
    from pyarrow import parquet

    first = next(iter(kept.values()))
    schema = _schema(first.labels_are, len(first.classes))
    names = arrow.array(_distinct(first.classes), arrow.string())
    tables = []
    for split, found in kept.items():
        places = pictures[split].indices.tolist()
        paths = [pictures[split].pictures.path(place) for place in places]
        values = {
            "split": [split] * len(found),
            "index": places,
            "path": [None if each is None else printable(each) for each in paths],
            **_columns(found, names, schema),
            "loss": found.loss,
        }
        made = [
            value if isinstance(value := values[field.name], arrow.Array) else arrow.array(value, field.type)
            for field in schema
        ]
        tables.append(arrow.table(made, schema=schema))
    facts = {"version": 1, "identity": identity, "labels_are": first.labels_are, "classes": list(first.classes)}
    table = arrow.concat_tables(tables).replace_schema_metadata({_KEY: json.dumps(facts)})
    repeated = ["split", *(["truth", "prediction"] if first.labels_are != "numbers" else []), "top_classes"]
    repeated += [f"{name}.list.element" for name in repeated]
    parquet.write_table(table, path, compression="zstd", use_dictionary=repeated)


def _schema(labels_are: LabelKind, count: int) -> Any:
    """Return the columns of predictions of so many classes or targets."""
    import pyarrow as arrow

    text, real = arrow.string(), arrow.float32()
    if count <= ALL_CLASSES:
        likely = {"probabilities": arrow.list_(real, count)}
    else:
        likely = {"top_classes": arrow.list_(text, LIKELIEST), "top_probabilities": arrow.list_(real, LIKELIEST)}
    number = real if count == 1 else arrow.list_(real, count)
    found = {
        "classes": {"truth": text, "prediction": text, "probability": real, **likely},
        "several": {"truth": arrow.list_(text), "prediction": arrow.list_(text), **likely},
        "numbers": {"truth": number, "prediction": number},
        "masks": {
            "mean_iou": real,
            "pixel_accuracy": real,
            "cells": arrow.list_(arrow.int32()),
            "pixels": arrow.list_(arrow.int64()),
        },
    }[labels_are]
    everything = {"split": text, "index": arrow.int64(), "path": text, **found, "loss": real}
    return arrow.schema(list(everything.items()))


def _columns(found: KeptPredictions, names: Any, schema: Any) -> dict[str, Any]:
    """Return the columns that the kind of the labels has, but for the likely classes that the schema lacks."""
    import pyarrow as arrow

    def lists(values: np.ndarray) -> Any:
        return arrow.FixedSizeListArray.from_arrays(arrow.array(values.reshape(-1)), values.shape[1])

    def ragged(counts: np.ndarray, values: Any) -> Any:
        return arrow.ListArray.from_arrays(np.concatenate([[0], counts.cumsum()]).astype(np.int32), values)

    if found.labels_are == "masks":
        overlap, accuracy = (arrow.array(each.astype(np.float32), from_pandas=True) for each in found.overlaps())
        counts, cells = np.diff(found.confusion.indptr), found.confusion
        return {
            "mean_iou": overlap,  # without a value where there is NaN
            "pixel_accuracy": accuracy,
            "cells": ragged(counts, cells.indices.astype(np.int32)),
            "pixels": ragged(counts, cells.data.astype(np.int64)),
        }
    both = {"truth": found.truth, "prediction": found.prediction}
    if found.labels_are == "numbers":
        return {name: values[:, 0] if values.shape[1] == 1 else lists(values) for name, values in both.items()}
    if found.labels_are == "classes":
        texts = {name: names.take(values) for name, values in both.items()}
        likely = found.shares.max(axis=1) if found.ranked is None else found.shares[:, 0]
        texts["probability"] = likely
    else:
        texts = {name: ragged(marks.sum(axis=1), names.take(np.nonzero(marks)[1])) for name, marks in both.items()}
    if found.ranked is None:
        return {**texts, "probabilities": lists(found.shares)}
    ranked = arrow.FixedSizeListArray.from_arrays(names.take(found.ranked.reshape(-1)), LIKELIEST)
    return {**texts, "top_classes": ranked, "top_probabilities": lists(found.shares)}


def _distinct(classes: Sequence[str]) -> list[str]:
    """Return the names of the classes as the file writes them: printable, and with their number where two would be
    equal."""
    names = [printable(name) for name in classes]
    return names if len(set(names)) == len(names) else [f"{number}: {name}" for number, name in enumerate(names)]


def predictions_checksum(path: Path) -> str:
    """Return the CRC-32 of a file of predictions, which a result names. Raise Unreadable if it cannot be read."""
    return f"{zlib.crc32(read_bytes(path, largest=_LARGEST, remedy=_REMEDY)):08x}"


def read_predictions(
    folder: Path, checksum: str | None, images: Mapping[str, int]
) -> dict[str, KeptPredictions] | None:
    """Return the predictions in a run's folder by split, None if it has none. `checksum`: of the file, as its result
    names it, None if it kept none. Raise Unreadable for a file that is not as the run wrote it, or that no run writes,
    such as one of other numbers of images than `images` has by split."""
    path = folder / PREDICTIONS
    if checksum is None or not exists(path):
        return None
    import pyarrow as arrow
    from pyarrow import parquet

    content = read_bytes(path, largest=_LARGEST, remedy=_REMEDY)
    if f"{zlib.crc32(content):08x}" != checksum:  # first, since a damaged footer can crash what reads it
        raise Unreadable(path, "it is not as the run wrote it", _REMEDY)
    try:
        with parquet.ParquetFile(arrow.BufferReader(content), pre_buffer=False) as file:
            _check_sizes(file.metadata)
            metadata, table = file.schema_arrow.metadata or {}, file.read(use_threads=False)
    except (arrow.ArrowException, OSError, ValueError, RuntimeError) as error:
        raise Unreadable(path, str(error), _REMEDY) from error
    if _KEY not in metadata:
        raise Unreadable(path, "it does not say which classes there are", _REMEDY)
    facts = validated(parse_json(metadata[_KEY], path, _FACTS), path, PredictionFacts, remedy=_REMEDY)
    try:
        return _parted(table, facts, images)
    except ValueError as error:
        raise Unreadable(path, str(error), _REMEDY) from error


def _check_sizes(metadata: Any) -> None:
    """Raise ValueError for a file that says to hold more than any run writes."""
    if metadata.num_rows > _MOST_ROWS or metadata.num_row_groups > _MOST_GROUPS or metadata.num_columns > 20:
        raise ValueError(f"it has {metadata.num_rows:,} rows in {metadata.num_row_groups:,} groups")
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    if any(group.num_columns != metadata.num_columns for group in groups):
        raise ValueError("its groups have other columns")
    unpacked = sum(group.total_byte_size for group in groups)
    values = [sum(group.column(number).num_values for group in groups) for number in range(metadata.num_columns)]
    if unpacked > _UNPACKED or max(values, default=0) > _MOST_VALUES:
        raise ValueError(f"it would take {unpacked:,} bytes, and a column of it {max(values, default=0):,} values")


def _parted(table: Any, facts: PredictionFacts, images: Mapping[str, int]) -> dict[str, KeptPredictions]:
    """Return the predictions of a table by split. ValueError for what does not fit."""
    wanted = _schema(facts.labels_are, len(facts.classes))
    if not table.schema.equals(wanted, check_metadata=False):
        raise ValueError(f"its columns are {', '.join(table.column_names)}, or of other types")
    if not len(table):
        raise ValueError("it has no row")
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    optional = ("path", "mean_iou", "pixel_accuracy")
    if gaps := [name for name, column in columns.items() if column.null_count and name not in optional]:
        raise ValueError(f"{gaps[0]}: a value is missing")
    splits = columns["split"].to_pylist()
    counts = {split: splits.count(split) for split in dict.fromkeys(splits)}
    if strange := [split for split, count in counts.items() if split == "train" or images.get(split) != count]:
        raise ValueError(f"it has {counts[strange[0]]:,} rows of {strange[0]!r}, and the run other images")
    found = _kept(columns, facts)
    if not np.isfinite(found.loss).all():
        raise ValueError("loss: a value is not finite")
    parts, start = {}, 0
    for split, count in counts.items():
        if set(splits[start : start + count]) != {split}:
            raise ValueError("split: rows of the splits are mixed")
        parts[split] = found.part(start, start + count)
        start += count
    return parts


def _kept(columns: Mapping[str, Any], facts: PredictionFacts) -> KeptPredictions:
    """Return the predictions of all rows."""
    count, number = len(columns["index"]), len(facts.classes)
    base = {"labels_are": facts.labels_are, "classes": tuple(facts.classes), "loss": columns["loss"].to_numpy()}
    if facts.labels_are == "masks":
        return KeptPredictions(**base, confusion=_confusion(columns["cells"], columns["pixels"], number))
    if facts.labels_are == "numbers":
        truth, prediction = (_reals(columns[name], name).reshape(count, number) for name in ("truth", "prediction"))
        return KeptPredictions(**base, truth=truth, prediction=prediction)
    places = {name: place for place, name in enumerate(_distinct(facts.classes))}
    ranked, likely = None, "probabilities"
    if "top_classes" in columns:
        ranked = _classes(columns["top_classes"].flatten(), places).reshape(count, LIKELIEST)
        likely = "top_probabilities"
    shares = _reals(columns[likely], likely).reshape(count, -1)
    if not ((shares >= 0) & (shares <= 1 + _SLACK)).all():
        raise ValueError(f"{likely}: a value is not between 0 and 1")
    both = [columns["truth"], columns["prediction"]]
    if facts.labels_are == "classes":
        truth, prediction = (_classes(column, places) for column in both)
    elif count * number > _MOST_VALUES:
        raise ValueError(f"it has {count:,} rows of {number:,} labels")
    else:
        truth, prediction = (_marks(column, places) for column in both)
    return KeptPredictions(**base, truth=truth, prediction=prediction, shares=shares, ranked=ranked)


def _reals(column: Any, name: str) -> np.ndarray:
    """Return the numbers of a column, or of the lists in it, float32 (m,)."""
    values = column.flatten() if column.type != "float" else column
    if values.null_count or not np.isfinite(found := values.to_numpy(zero_copy_only=False)).all():
        raise ValueError(f"{name}: a value is missing or not finite")
    return found


def _classes(column: Any, places: Mapping[str, int]) -> np.ndarray:
    """Return the numbers int64 (m,) of the classes that a column of texts names."""
    encoded = column.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    if column.null_count or (unknown := [name for name in names if name not in places]):
        raise ValueError("a class is missing" if column.null_count else f"{unknown[0]!r} is none of the classes")
    return np.array([places[name] for name in names], dtype=np.int64)[encoded.indices.to_numpy()]


def _marks(column: Any, places: Mapping[str, int]) -> np.ndarray:
    """Return booleans (n, C) of a column of lists of classes."""
    lengths = np.diff(column.offsets.to_numpy())
    marks = np.zeros((len(column), len(places)), dtype=bool)
    if lengths.any():
        marks[np.repeat(np.arange(len(column)), lengths), _classes(column.flatten(), places)] = True
    return marks


def _confusion(cells: Any, pixels: Any, number: int) -> csr_matrix:
    """Return the counts of pixels (n, C * C) of two columns of lists."""
    lengths = np.diff(cells.offsets.to_numpy())
    if not np.array_equal(lengths, np.diff(pixels.offsets.to_numpy())):
        raise ValueError("cells and pixels: lists of different lengths")
    places, counts = (column.flatten() for column in (cells, pixels))
    if places.null_count or counts.null_count:
        raise ValueError("cells and pixels: a value is missing")
    where, found = places.to_numpy(), counts.to_numpy()
    if len(where) and (where.min() < 0 or where.max() >= number**2 or found.min() < 1 or found.max() > _MOST_PIXELS):
        raise ValueError("cells and pixels: a value is out of range")
    starts = np.concatenate([[0], lengths.cumsum()])
    return csr_matrix((found, where, starts), shape=(len(cells), number**2))
