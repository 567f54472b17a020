"""Every list of every layout of FGVC's data sets, broken in ten ways: one line names it, or it did not matter."""

from collections.abc import Callable
from pathlib import Path

import pytest

from damaged import complaints, summary
from fgvc_miniatures import WRITERS, json_splits
from miniatures import Picture

UNREAD = ("file_list.mat", "cars_test_annos.mat")  # published beside the others
UNNOTICED = {("other_shape", "classes.txt")}  # a class may have any name


@pytest.mark.parametrize("name", WRITERS)
def test_a_damaged_list_of_a_release_is_named(make: Callable, name: str, tmp_path: Path, picture: Picture):
    folder = WRITERS[name](tmp_path, picture)

    def read():
        sets = make(f"fgvc/{name}", root=str(tmp_path), miniature=True).open()
        return summary(sets.classes, sets.train, sets.val, sets.test)

    files = [file for file in sorted(folder.rglob("*")) if file.suffix in (".txt", ".mat") and file.name not in UNREAD]
    assert len(files) >= 2
    assert complaints(read, files, unnoticed=UNNOTICED) == ""


def test_a_damaged_json_list_is_named(make: Callable, tmp_path: Path, picture: Picture):
    folder = WRITERS["dogs"](tmp_path, picture)
    pictures = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.jpg"))
    labels = {path: place % 3 for place, path in enumerate(pictures)}
    json_splits(
        folder,
        **{split: dict(list(labels.items())[start::3]) for start, split in enumerate(("train", "val", "test"))},
    )

    def read():
        sets = make("fgvc/dogs", root=str(tmp_path), miniature=True, source="json").open()
        return summary(sets.classes, sets.train, sets.val, sets.test)

    assert complaints(read, sorted(folder.glob("*.json"))) == ""
