"""800 and 200 images of a whole release: the release's own, drawn, or by a list of the user's."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from peft_vision.core.config import ConfigError
from peft_vision.data.arrays import Arrays
from peft_vision.data.benchmark import TASKS, Release
from peft_vision.data.pictures import Files, labelled
from peft_vision.data.vtab import benchmark
from vtab_miniatures import picture

CLASSES = ("a car", "a tram", "a lorry", "none")


def grey(count: int) -> Arrays:
    return Arrays(np.repeat(np.arange(count, dtype=np.uint8), 48).reshape(count, 4, 4, 3))


def part(count: int):
    return labelled(grey(count), [place % 4 for place in range(count)])


def release(train, val, test, **changes) -> Release:
    values = {"classes": CLASSES, "files": (), "remark": "", "chosen": False} | changes
    return Release(train=train, val=val, test=test, **values)


@pytest.fixture
def publish(monkeypatch) -> Callable[[Release], None]:
    """Makes it what the reader of KITTI finds."""
    return lambda found: monkeypatch.setitem(benchmark.READERS, "kitti", lambda root: found)


def mini(make, **overrides):
    return make("vtab/kitti", source="original", miniature=True, **overrides)


def places(sets) -> list[list[int]]:
    return [split.indices.tolist() for split in (sets.train, sets.val, sets.test)]


def test_what_a_release_has_chosen_is_taken(make, publish):
    publish(release(part(6), part(3), part(5), chosen=True))
    sets = mini(make).open()
    assert places(sets) == [[0, 1, 2, 3, 4, 5], [0, 1, 2], [0, 1, 2, 3, 4]]
    assert sets.classes == CLASSES
    assert sets.provenance["index list"] == "the official one, by the order of TensorFlow Datasets computed anew"


def test_800_and_200_are_drawn_of_a_release_without_validation_images(make, publish):
    publish(release(part(2000), None, part(711)))
    sets = make("vtab/kitti", source="original").open()
    train, val, test = places(sets)
    assert (len(train), len(val), test) == (800, 200, list(range(711)))
    assert not set(train) & set(val)
    assert (train, val) == (sorted(train), sorted(val))
    assert sets.train.labels.tolist() == [place % 4 for place in train]
    assert sets.provenance["index list"] == "not the official one, drawn with data.split_seed=0"
    assert "index list: not the official one, drawn with data.split_seed=0" in sets.remark


def test_the_draw_hangs_on_split_seed_alone(make, publish):
    publish(release(part(2000), None, part(711)))
    found = [places(make("vtab/kitti", source="original", split_seed=seed).open()) for seed in (0, 0, 1)]
    assert found[0] == found[1]
    assert set(found[0][0]) != set(found[2][0])
    assert found[0][2] == found[2][2]


def test_any_image_is_as_likely_to_be_drawn_as_any_other(make, publish):
    """Half of a rare class' images, but not exactly half, as a stratified draw would have."""
    labels = torch.zeros(2000, dtype=torch.int64)
    labels[:100] = 1
    publish(release(labelled(grey(2000), labels), None, part(711)))
    found = [
        int(torch.cat([sets.train.labels, sets.val.labels]).sum())
        for sets in (make("vtab/kitti", source="original", split_seed=seed).open() for seed in range(20))
    ]
    assert len(set(found)) > 3
    assert sum(found) / len(found) == pytest.approx(50, abs=4)  # 4 standard errors


def test_200_are_drawn_of_validation_images_of_its_own(make, publish):
    found = release(part(900), part(300), part(711))
    publish(found)
    sets = make("vtab/kitti", source="original").open()
    assert [len(split) for split in (sets.train, sets.val, sets.test)] == [800, 200, 711]
    assert sets.train.pictures is found.train.pictures
    assert sets.val.pictures is found.val.pictures


def test_parts_that_are_small_enough_are_not_drawn_of(make, publish):
    publish(release(part(20), part(10), part(5), remark="drawn by video"))
    sets = mini(make).open()
    assert places(sets) == [list(range(20)), list(range(10)), list(range(5))]
    assert sets.provenance["index list"] == "the release's own"
    assert sets.provenance["remark"] == "drawn by video"


def test_a_miniature_is_divided_four_to_one(make, publish):
    publish(release(part(50), None, part(5)))
    sets = mini(make).open()
    assert (len(sets.train), len(sets.val)) == (40, 10)


@pytest.mark.parametrize(
    "task", ["camelyon", "clevr_count", "clevr_distance", "kitti", "smallnorb_azimuth", "smallnorb_elevation"]
)
def test_an_original_is_read_by_its_own_reader(make, vtab_original, task: str):
    root = vtab_original(task)
    found = benchmark.READERS[task](root)
    sets = make(f"vtab/{task}", source="original", root=str(root), miniature=True).open()
    for split, original in ((sets.train, found.train), (sets.val, found.val), (sets.test, found.test)):
        assert split.labels.tolist() == original.labels.tolist()
        assert split.digest() == original.digest()
    assert (sets.classes, sets.group) == (found.classes, TASKS[task].group)


@pytest.mark.parametrize(
    ("found", "complaint"),
    [
        (release(part(9), part(9), part(9), classes=CLASSES[:3]), "KITTI/distance has 3 classes, VTAB-1k's has 4"),
        (
            release(part(9), part(9), labelled(grey(2), [0, -1])),
            "data: 1 test images of KITTI/distance have labels such as -1; should be 0 to 3",
        ),
        (
            release(labelled(grey(2), [4, 4]), part(9), part(9)),
            "2 train images of KITTI/distance have labels such as 4",
        ),
    ],
)
def test_labels_that_are_not_the_tasks_are_refused(make, publish, found, complaint):
    publish(found)
    with pytest.raises(ConfigError) as error:
        mini(make).check()
    assert complaint in str(error.value)


@pytest.fixture
def files(tmp_path: Path, publish) -> Path:
    """Publishes files of two folders, of which each has a 1.png: five to train and three to test on."""
    root = tmp_path / "kitti"
    names = {"left": ["0.png", "1.png", "2.png"], "right": ["1.png", "3.png"], "test": ["4.png", "5.png", "6.png"]}
    for folder, file_names in names.items():
        (root / folder).mkdir(parents=True)
        for name in file_names:
            picture(int(name[0])).save(root / folder / name)
    train = [f"{folder}/{name}" for folder in ("left", "right") for name in names[folder]]
    test = [f"test/{name}" for name in names["test"]]
    publish(release(labelled(Files(root, train), [0, 1, 2, 3, 0]), None, labelled(Files(root, test), [1, 2, 3])))
    return root


def listed(folder: Path, *lines: str) -> str:
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    return str(folder / "list.txt")


def names(part) -> list[str]:
    return ["/".join(Path(part.pictures.name(index)).parts[-2:]) for index in part.indices.tolist()]


def test_a_list_chooses_by_names(make, files: Path, preprocessing):
    file = listed(files, "# mine", "train800 3.png", "", "train800 right/1.png", "val200 0.png")
    data = mini(make, index_file=file)
    sets = data.open()
    assert [names(split) for split in (sets.train, sets.val)] == [["right/3.png", "right/1.png"], ["left/0.png"]]
    assert [split.labels.tolist() for split in (sets.train, sets.val, sets.test)] == [[0, 3], [0], [1, 2, 3]]
    found = data.load(preprocessing).provenance
    assert found["index list"] == "given by list.txt"
    assert found["list.txt"].startswith("sha256 ")


def test_a_list_chooses_by_places(make, files: Path):
    sets = mini(make, index_file=listed(files, "train800 4", "train800 0", "val200 1", "test 2")).open()
    assert [names(split) for split in (sets.train, sets.val)] == [["right/3.png", "left/0.png"], ["left/1.png"]]
    assert (names(sets.test), sets.test.labels.tolist()) == (["test/6.png"], [3])


def test_validation_places_are_of_the_validation_part_where_there_is_one(make, publish, tmp_path: Path):
    publish(release(part(9), part(300), part(4)))
    sets = mini(make, index_file=listed(tmp_path, "train800 8", "val200 8", "val200 299")).open()
    assert sets.train.labels.tolist() == [0]
    assert sets.val.labels.tolist() == [0, 3]
    with pytest.raises(ConfigError, match=r"1 of the 2 images that .* lists are not in the release: train800 9"):
        mini(make, index_file=listed(tmp_path, "train800 9", "val200 8")).check()


def test_a_list_may_train_on_images_of_a_drawn_test_part_if_it_says_what_to_test_on(make, files: Path):
    lines = ("train800 4.png", "val200 0.png")
    with pytest.raises(ConfigError, match=r"test/4\.png is of train800 and of test by .*; list the images of test as"):
        mini(make, index_file=listed(files, *lines)).check()
    sets = mini(make, index_file=listed(files, *lines, "test 5.png", "test left/1.png")).open()
    assert [names(split) for split in (sets.train, sets.val)] == [["test/4.png"], ["left/0.png"]]
    assert names(sets.test) == ["test/5.png", "left/1.png"]


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (
            ("train800 8.png", "train800 9.png", "val200 0.png", "val200 up/0.png"),
            "data.index_file: 3 of the 4 images that {file} lists are not in the release: train800 8.png, "
            "train800 9.png, val200 up/0.png",
        ),
        (
            ("train800 1.png", "val200 0.png"),
            "data.index_file: 1.png of {file} may be {folder}/left/1.png or {folder}/r",
        ),
        (("train800 0.png", "val200 0.png"), "{folder}/left/0.png is of train800 and of val200 by {file}"),
        (
            ("train800 3", "train800 3.png", "train800 4", "val200 0.png"),
            "right/3.png is of train800 and of train800 by",
        ),
        (("train800 0.png",), "data.index_file: {file} has no line of val200, such as 'val200 00017.jpg'"),
        (
            ("train 0.png",),
            "data.index_file: {file} line 1 is 'train 0.png', should be 'train800 IMAGE', 'val200 IMAGE'",
        ),
        (("train800 0.png", "val200"), "{file} line 2 is 'val200', should be"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(make, files: Path, lines, complaint: str):
    file = listed(files, *lines)
    with pytest.raises(ConfigError) as error:
        mini(make, index_file=file).check()
    assert complaint.format(file=file, folder=files) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_list_that_is_not_there_is_named(make, files: Path):
    with pytest.raises(ConfigError, match=r"data\.index_file: cannot read .*/no\.txt"):
        mini(make, index_file=str(files / "no.txt")).check()


def test_a_list_for_a_release_that_has_chosen_is_refused(make, publish, tmp_path: Path):
    publish(release(part(6), part(3), part(5), chosen=True))
    with pytest.raises(ConfigError, match=r"with data\.source=original the 1,000 images of kitti are known"):
        mini(make, index_file=listed(tmp_path, "train800 0", "val200 0")).check()
