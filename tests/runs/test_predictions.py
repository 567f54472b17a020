"""Predictions are read back as they were written, or not at all."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet
from scipy.sparse import csr_matrix
from sklearn.metrics import confusion_matrix

from peft_vision.core.records import Unreadable
from peft_vision.data.arrays import Arrays
from peft_vision.data.pictures import Files, Labelled
from peft_vision.objective.predictions import ALL_CLASSES, KeptPredictions
from peft_vision.objective.segmentation import Pixels, confusion
from peft_vision.runs.predictions import PREDICTIONS, predictions_checksum, read_predictions, write_predictions

COUNTS = {"val": 7, "test": 12}


def classes(count: int, number: int = 5, *, seed: int = 0) -> KeptPredictions:
    random = np.random.default_rng(seed)
    shares = random.dirichlet(np.ones(number), count).astype(np.float32)
    order = np.argsort(-shares, axis=1)
    names = tuple(f"class {label}" for label in range(number))
    many = (
        {} if number <= ALL_CLASSES else {"shares": np.take_along_axis(shares, order[:, :5], 1), "ranked": order[:, :5]}
    )
    whole = KeptPredictions("classes", names, random.random(count, dtype=np.float32), random.integers(0, number, count))
    return replace(whole, prediction=order[:, 0], **{"shares": shares, **many})


def several(count: int) -> KeptPredictions:
    random = np.random.default_rng(1)
    shares = random.random((count, 3), dtype=np.float32)
    truth = random.random((count, 3)) > 0.6  # some have no label
    # names that a file cannot hold as they are, and that are equal once they can be shown
    return KeptPredictions("several", ("a", "b\x07", "b"), shares[:, 0], truth, shares > 0.5, shares)


def numbers(count: int, targets: int) -> KeptPredictions:
    truth, prediction = np.random.default_rng(2).normal(size=(2, count, targets)).astype(np.float32)
    return KeptPredictions("numbers", ("age", "height")[:targets], truth[:, 0] ** 2, truth, prediction)


def masks(count: int) -> KeptPredictions:
    random = np.random.default_rng(3)
    matrices = random.integers(0, 3, (count, 4, 4)) * random.integers(0, 2, (count, 4, 4))
    matrices[0] = 0  # no pixel of the first image is labelled
    loss = random.random(count, dtype=np.float32)
    return KeptPredictions("masks", tuple("abcd"), loss, confusion=csr_matrix(matrices.reshape(count, -1)))


KINDS = {
    "classes": classes,
    "many classes": lambda count: classes(count, ALL_CLASSES + 1),
    "several": several,
    "a number": lambda count: numbers(count, 1),
    "numbers": lambda count: numbers(count, 2),
    "masks": masks,
}


def read(folder: Path) -> dict[str, KeptPredictions]:
    """What is read where the result names the checksum of the present file."""
    trained_on = sum(COUNTS.values())  # as many as all predictions that there are
    return read_predictions(folder, predictions_checksum(folder / PREDICTIONS), {**COUNTS, "train": trained_on})


def written(folder: Path, kind: str = "classes") -> dict[str, KeptPredictions]:
    kept = {split: KINDS[kind](count) for split, count in COUNTS.items()}
    pixels = Labelled(Arrays(np.zeros((20, 2, 2, 3), np.uint8)), torch.arange(7) + 3, torch.zeros(7))
    files = Files(folder, [f"a/{number}\udce9.png" for number in range(12)])
    pictures = {"val": pixels, "test": Labelled(files, torch.arange(12), torch.zeros(12))}
    write_predictions(folder / PREDICTIONS, kept, pictures, "this run")
    return kept


def equal(one: KeptPredictions, other: KeptPredictions) -> bool:
    assert (one.labels_are, one.classes) == (other.labels_are, other.classes)
    for name in ("loss", "truth", "prediction", "shares", "ranked"):
        pair = getattr(one, name), getattr(other, name)
        assert (pair[0] is None) == (pair[1] is None), name
        assert pair[0] is None or (np.array_equal(*pair) and pair[0].shape == pair[1].shape), name
    return one.confusion is None or (one.confusion != other.confusion).nnz == 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_is_what_was_written_and_any_other_reader_has_the_same_columns(kind, tmp_path):
    kept = written(tmp_path, kind)
    found = read(tmp_path)
    assert list(found) == ["val", "test"]
    assert all(equal(found[split], kept[split]) for split in kept)
    rows = parquet.read_table(tmp_path / PREDICTIONS).to_pylist()
    assert [row["split"] for row in rows] == ["val"] * 7 + ["test"] * 12
    assert [row["index"] for row in rows] == [*range(3, 10), *range(12)]
    assert (rows[0]["path"], rows[7]["path"]) == (None, "a/0\\xe9.png")
    last, whole = rows[-1], kept["test"]
    match whole.labels_are:
        case "classes":
            assert last["prediction"] == whole.classes[whole.prediction[-1]]
            assert last["probability"] == whole.shares[-1].max()
            assert len(last["probabilities" if whole.ranked is None else "top_classes"]) == whole.shares.shape[1]
        case "several":
            assert last["truth"] == [f"{n}: {'abb'[n]}" for n in np.flatnonzero(whole.truth[-1])]
        case "numbers":
            assert np.array_equal(np.ravel(last["truth"]), whole.truth[-1])
        case "masks":
            assert rows[0]["mean_iou"] is None
            assert last["mean_iou"] == pytest.approx(whole.overlaps()[0][-1])


def test_a_run_that_kept_none_has_none(tmp_path):
    assert read_predictions(tmp_path, "0" * 8, COUNTS) is None
    written(tmp_path)  # but its result does not say so
    assert read_predictions(tmp_path, None, COUNTS) is None


@pytest.mark.parametrize("place", [0, 4, 300, -40, -6])
def test_a_byte_that_changed_anywhere_is_noticed(place, tmp_path):
    written(tmp_path)
    path = tmp_path / PREDICTIONS
    checksum, content = predictions_checksum(path), bytearray(path.read_bytes())
    content[place] ^= 0x55
    path.write_bytes(content)
    with pytest.raises(Unreadable) as error:
        read_predictions(tmp_path, checksum, COUNTS)
    assert str(error.value).startswith(f"cannot read {path}: it is not as the run wrote it\n")


def changed(name: str, value: object) -> object:
    """Every row gets this value; or the column is left out."""

    def change(table: pyarrow.Table) -> pyarrow.Table:
        place, kind = table.column_names.index(name), table.schema.field(name).type
        if value is None:
            return table.remove_column(place)
        return table.set_column(place, pyarrow.field(name, kind), pyarrow.array([value] * len(table), kind))

    return change


def facts(**others: object) -> object:
    def change(table: pyarrow.Table) -> pyarrow.Table:
        said = {**json.loads(table.schema.metadata[b"peft_vision"]), **others}
        return table.replace_schema_metadata({"peft_vision": json.dumps(said)})

    return change


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("classes", facts(version=2), "version"),
        ("classes", facts(labels_are="masks"), "its columns are"),
        ("classes", facts(classes=["one"] * 6), "its columns are"),
        ("classes", lambda table: table.replace_schema_metadata({}), "does not say which classes"),
        ("classes", changed("loss", None), "its columns are"),
        ("classes", changed("loss", np.inf), "loss: a value is not finite"),
        ("classes", changed("truth", "a dog"), "'a dog' is none of the classes"),
        ("classes", changed("probabilities", [0.1, 0.2, 0.3, 0.4, 1.7]), "not between 0 and 1"),
        ("classes", changed("probabilities", [0.1, None, 0.3, 0.4, 0.1]), "missing or not finite"),
        ("classes", changed("split", "train"), "19 rows of 'train'"),
        ("classes", lambda table: table.slice(1), "6 rows of 'val'"),
        ("classes", lambda table: table.slice(0, 0), "it has no row"),
        ("classes", lambda table: pyarrow.concat_tables([table.slice(5), table.slice(0, 5)]), "are mixed"),
        ("several", changed("prediction", ["a", None]), "a class is missing"),
        ("numbers", changed("prediction", [1.0, np.nan]), "prediction: a value is missing or not finite"),
        ("masks", changed("cells", [16]), "lists of different lengths"),
        ("masks", lambda table: changed("pixels", [1])(changed("cells", [16])(table)), "out of range"),
        ("masks", lambda table: changed("pixels", [0])(changed("cells", [1])(table)), "out of range"),
    ],
)
def test_what_no_run_writes_is_named(kind, change, said, tmp_path):
    written(tmp_path, kind)
    path = tmp_path / PREDICTIONS
    parquet.write_table(change(parquet.read_table(path)), path)
    with pytest.raises(Unreadable, match=said):
        read(tmp_path)


def test_what_is_no_file_of_this_kind_is_named(tmp_path):
    path = tmp_path / PREDICTIONS
    for content in (b"", b"PAR1", b"no parquet"):
        path.write_bytes(content)
        with pytest.raises(Unreadable, match="cannot read"):
            read(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(Unreadable, match="a folder"):
        read(tmp_path)


def test_the_confusion_matrix_is_scikit_learns_and_overlaps_are_those_of_each_picture():
    found = classes(200)
    assert np.array_equal(found.matrix(), confusion_matrix(found.truth, found.prediction, labels=range(5)))
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (6, 9, 9), generator=generator)
    labels[labels == 3] = 255
    labels[4] = 255
    logits = torch.randn(6, 3, 9, 9, generator=generator)
    criterion = Pixels(3, None, 0.0)
    kept = criterion.predictions(criterion.judge(logits, labels), ("a", "b", "c"))
    assert np.array_equal(
        kept.matrix(), sum(confusion(*pair, 3) for pair in zip(labels, logits.argmax(1), strict=True))
    )
    for place, (overlap, right) in enumerate(zip(*kept.overlaps(), strict=True)):
        alone = criterion.scores(criterion.judge(logits[place : place + 1], labels[place : place + 1]))
        expected = alone.get("mean_iou", np.nan), alone.get("pixel_accuracy", np.nan)
        assert (overlap, right) == pytest.approx(expected, nan_ok=True)
    assert kept.faults()[4] == 0
