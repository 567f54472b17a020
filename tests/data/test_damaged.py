"""Every reader of this folder, and of the out-of-distribution sets, before files that are broken in ten ways."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from damage import DAMAGES, refused
from mask_miniatures import CLASSES, VOID, masked
from ood_miniatures import CIFAR10, cifar10_1, cifar_c, class_folders, stl10
from peft_vision.data.base import Data
from peft_vision.data.pictures import Labelled
from shift_miniatures import domainnet, fmow, make_ood, world
from vtab_miniatures import parquet

Seen = list[tuple[int, bytes]]


def seen(*parts: Labelled | None) -> Seen:
    """The label and the pixels of every picture, and its mask, if it has one."""
    return [
        (label, np.asarray(part.pictures.read(index)).tobytes() + _mask(part, index))
        for part in parts
        if part is not None
        for index, label in zip(part.indices.tolist(), part.labels.tolist(), strict=True)
    ]


def _mask(part: Labelled, index: int) -> bytes:
    return part.pictures.mask(index).tobytes() if part.pictures.masked else b""


def trained_on(data: Data, preprocessing) -> Seen:
    data.load(preprocessing)
    sets = data.open()
    return seen(sets.train, sets.val, sets.test)


def scored(name: str, data: Data, preprocessing, **overrides: Any) -> Seen:
    ood = make_ood(name, **overrides)
    ood.check()
    shifts = ood.open().values()
    for shift in shifts:
        data.load_other(shift.labelled, preprocessing, label=name)
    return seen(*(shift.labelled for shift in shifts))


def a_picture(folder: Path, make, preprocessing) -> tuple[Path, Callable[[], Seen]]:
    for split in ("train", "test"):
        class_folders(folder / split, {"cat": 0, "dog": 1}, ["1.png", "2.png", "3.png"])
    data = make("image_folder", path=str(folder), val_fraction=0)
    return folder / "train" / "cat" / "2.png", lambda: trained_on(data, preprocessing)


def a_picture_that_is_not_held(folder: Path, make, preprocessing) -> tuple[Path, Callable[[], Seen]]:
    for split in ("train", "test"):
        class_folders(folder / split, {"cat": 0, "dog": 1}, ["1.jpg", "2.jpg"])
    data = make("image_folder", path=str(folder), val_fraction=0, cache=False)
    return folder / "test" / "dog" / "1.jpg", lambda: trained_on(data, preprocessing)


def a_shifted_picture(folder: Path, make, preprocessing) -> tuple[Path, Callable[[], Seen]]:
    class_folders(folder, {"cat": 0, "dog": 1}, ["1.png"])
    return folder / "cat" / "1.png", lambda: scored("image_folder", make("digits"), preprocessing, path=str(folder))


def a_mask(folder: Path, make, preprocessing) -> tuple[Path, Callable[[], Seen]]:
    masked(folder, {"train": 3, "test": 2})
    data = make("masks", path=str(folder), classes=CLASSES, ignore=[VOID], val_fraction=0)
    return folder / "train" / "masks" / "01.png", lambda: trained_on(data, preprocessing)


def a_mask_that_is_not_held(folder: Path, make, preprocessing) -> tuple[Path, Callable[[], Seen]]:
    masked(folder, {"train": 3, "test": 2})
    given = {"classes": CLASSES, "ignore": [VOID], "val_fraction": 0, "cache": False}
    data = make("masks", path=str(folder), **given)
    return folder / "test" / "masks" / "00.png", lambda: trained_on(data, preprocessing)


def names_of_classes(folder: Path, make, preprocessing) -> tuple[Path, Callable[[], Seen]]:
    masked(folder, {"train": 3, "test": 2})
    file = folder / "classes.txt"
    file.write_text("\n".join(CLASSES))
    data = make("masks", path=str(folder), classes_file=str(file), ignore=[VOID], val_fraction=0)
    return file, lambda: [*trained_on(data, preprocessing), data.open().classes]


def _table(folder: Path, make, preprocessing, name: str) -> tuple[Path, Callable[[], Seen]]:
    class_folders(folder, {"cat": 0, "dog": 1}, ["1.png", "2.png", "3.png"])
    paths = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*.png"))]
    if name.endswith(".parquet"):
        arrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        columns = {"image": paths, "label": [float(place) for place in range(6)]}
        parquet.write_table(arrow.table(columns), folder / name)
    else:
        lines = ["image,label", *(f"{path},{place}.5" for place, path in enumerate(paths))]
        (folder / name).write_text("\n".join(lines))
    data = make("table", path=str(folder / name), labels_are="numbers", val_fraction=0)
    return folder / name, lambda: trained_on(data, preprocessing)


def a_table(folder: Path, make, preprocessing) -> tuple[Path, Callable[[], Seen]]:
    return _table(folder, make, preprocessing, "table.csv")


def a_parquet_table(folder: Path, make, preprocessing) -> tuple[Path, Callable[[], Seen]]:
    return _table(folder, make, preprocessing, "table.parquet")


def parquet_shard(folder: Path, make, preprocessing) -> tuple[Path, Callable[[], Seen]]:
    names = ("cat", "dog")
    paths = [
        parquet(folder / f"{name}.parquet", [0, 1, 1, 0], names=names, first=4 * place)
        for place, name in enumerate(("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"))
    ]
    data = make("parquet", path=str(folder), val_fraction=0)
    return paths[1], lambda: trained_on(data, preprocessing)


def domainnet_list(folder: Path, make, preprocessing) -> tuple[Path, Callable[[], Seen]]:
    domainnet(folder, "sketch")
    data = make("domainnet", path=str(folder), val_fraction=0)
    return folder / "sketch_train.txt", lambda: trained_on(data, preprocessing)


def shifted_domainnet_list(folder: Path, make, preprocessing) -> tuple[Path, Callable[[], Seen]]:
    domainnet(folder, "real")
    given = {"path": str(folder), "domains": ["real"]}
    return folder / "real_test.txt", lambda: scored("domainnet", make("digits"), preprocessing, **given)


def fmow_rows(folder: Path, make, preprocessing) -> tuple[Path, Callable[[], Seen]]:
    data = make("fmow", path=str(fmow(folder, world())))
    return folder / "rgb_metadata.csv", lambda: trained_on(data, preprocessing)


def fmow_countries(folder: Path, make, preprocessing) -> tuple[Path, Callable[[], Seen]]:
    fmow(folder, world())
    return folder / "country_code_mapping.csv", lambda: scored("fmow", make("digits"), preprocessing, path=str(folder))


def new_images(folder: Path, make, preprocessing) -> tuple[Path, Callable[[], Seen]]:
    cifar10_1(folder, [0, 1, 2, 3] * 5)
    return folder / "cifar10.1_v6_data.npy", lambda: scored(
        "cifar10_1", make("digits"), preprocessing, path=str(folder)
    )


def new_labels(folder: Path, make, preprocessing) -> tuple[Path, Callable[[], Seen]]:
    cifar10_1(folder, [0, 1, 2, 3] * 5)
    return folder / "cifar10.1_v6_labels.npy", lambda: scored(
        "cifar10_1", make("digits"), preprocessing, path=str(folder)
    )


def corrupted_images(folder: Path, make, preprocessing) -> tuple[Path, Callable[[], Seen]]:
    cifar_c(folder, ("fog", "snow"), list(range(len(CIFAR10))))
    given = {"path": str(folder), "corruptions": ["fog", "snow"]}
    return folder / "snow.npy", lambda: scored("cifar10_c", make("digits"), preprocessing, **given)


def stl10_images(folder: Path, make, preprocessing) -> tuple[Path, Callable[[], Seen]]:
    stl10(folder, list(range(10)))
    return folder / "test_X.bin", lambda: scored("stl10", make("digits"), preprocessing, path=str(folder))


def stl10_labels(folder: Path, make, preprocessing) -> tuple[Path, Callable[[], Seen]]:
    stl10(folder, list(range(10)))
    return folder / "test_y.bin", lambda: scored("stl10", make("digits"), preprocessing, path=str(folder))


def stl10_names(folder: Path, make, preprocessing) -> tuple[Path, Callable[[], Seen]]:
    stl10(folder, list(range(10)))
    return folder / "class_names.txt", lambda: scored("stl10", make("digits"), preprocessing, path=str(folder))


READERS = (
    *(a_picture, a_picture_that_is_not_held, a_shifted_picture, parquet_shard, domainnet_list, shifted_domainnet_list),
    *(a_mask, a_mask_that_is_not_held, names_of_classes, a_table, a_parquet_table),
    *(fmow_rows, fmow_countries, new_images, new_labels, corrupted_images, stl10_images, stl10_labels, stl10_names),
)
ANY_WILL_DO = {  # what nobody could tell from a whole file: pictures of any size, pixels of any value
    *((reader, "other_shape") for reader in (a_picture, a_picture_that_is_not_held, a_shifted_picture)),
    *((stl10_images, name) for name in ("wrong_magic", "huge_length")),
    *((names_of_classes, name) for name in ("truncated", "other_shape")),  # other names
}


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_a_broken_file_is_named_in_a_line_or_changes_nothing(reader, make, preprocessing, tmp_path: Path):
    path, read = reader(tmp_path / "data", make, preprocessing)
    content, whole = path.read_bytes(), read()
    for name, damage in DAMAGES.items():
        if (reader, name) in ANY_WILL_DO:
            continue
        damage(path)
        try:
            said = refused(read, path, unless=whole)
        except BaseException as error:
            error.add_note(f"damage: {name}")
            raise
        assert said or name in ("repeated", "other_shape", "huge_length"), f"{name} went unnoticed"
        path.rmdir() if path.is_dir() else path.unlink()
        path.write_bytes(content)
