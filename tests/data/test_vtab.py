"""VTAB-1k: its numbers, processed copies, and what a result says of them."""

import json
import logging
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from command import call, run_folder
from peft_vision.core.config import CONFIG_DIR, ConfigError
from peft_vision.data.benchmark import TASKS
from peft_vision.data.vtab import benchmark
from vtab_miniatures import FOLDERS, HIGHEST, processed, relist

ENDS = pytest.mark.parametrize("task", HIGHEST)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Holds a miniature of KITTI."""
    processed(tmp_path / "vtab-1k" / "kitti", "kitti")
    return tmp_path


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Path:
    """Holds a KITTI of the true numbers."""
    root = tmp_path_factory.mktemp("sets")
    processed(root / "vtab-1k" / "kitti", "kitti", (800, 200, 711))
    relist(root, "test.txt", lambda lines: [f"{line[:-1]}{place % 4}" for place, line in enumerate(lines)])
    return root


def mini(make, root: Path, task: str = "kitti", **overrides):
    return make(f"vtab/{task}", root=str(root), miniature=True, **overrides)


def shown(part) -> list[int]:
    """The places of pictures in their splits."""
    return [part.pictures.read(index).getpixel((0, 0))[0] for index in part.indices.tolist()]


def test_the_benchmark_has_387905_test_images_in_19_tasks_of_three_groups():
    assert sum(task.test for task in TASKS.values()) == 387_905
    assert Counter(task.group for task in TASKS.values()) == {"natural": 7, "specialized": 4, "structured": 8}
    assert {name: task.num_classes - 1 for name, task in TASKS.items()} == HIGHEST


@ENDS
def test_the_file_of_a_task_tells_its_numbers(task):
    text = (CONFIG_DIR / "data" / "vtab" / f"{task}.yaml").read_text().splitlines()[0]
    assert text.endswith(f"; {HIGHEST[task] + 1} classes, 800 + 200 + {TASKS[task].test:,} images.")


def test_every_task_has_a_file():
    assert {path.stem for path in (CONFIG_DIR / "data" / "vtab").glob("*.yaml")} == set(HIGHEST) == set(TASKS)


@ENDS
@pytest.mark.parametrize("below", ["vtab-1k", "."])
def test_a_processed_copy_is_read_by_its_lists(make, tmp_path: Path, task: str, below: str):
    processed(tmp_path / below / FOLDERS.get(task, task), task)
    sets = mini(make, tmp_path, task).open()
    highest = HIGHEST[task]
    assert sets.train.labels.tolist() == [0, highest, 1, 0]
    assert sets.val.labels.tolist() == [0, highest]
    assert sets.test.labels.tolist() == [0, highest, 1]
    assert [shown(part) for part in (sets.train, sets.val, sets.test)] == [[0, 1, 2, 3], [0, 1], [0, 1, 2]]
    assert (len(sets.classes), sets.group) == (highest + 1, TASKS[task].group)


def test_an_image_that_is_not_there_is_left_out_where_corrupt_ones_are(make, root: Path, preprocessing):
    gone = next((root / "vtab-1k" / "kitti").glob("images/**/*.png"))
    gone.unlink()
    gone.symlink_to("nowhere")
    splits = mini(make, root, on_corrupt="skip").load(preprocessing)
    assert splits.skipped >= 1
    assert splits.provenance["images"].endswith("of 4 + 2 images without the 1 that cannot be opened")


def test_the_final_run_trains_on_train_and_validation_images(make, root: Path):
    parts = mini(make, root, stage="final").parts()
    assert {split: len(part) for split, part in parts.items()} == {"train": 6, "test": 3}


def test_tuning_leaves_the_test_images_alone(make, root: Path):
    assert list(mini(make, root, stage="tune").parts()) == ["train", "val"]


def test_classes_without_a_training_image_are_counted(make, root: Path, preprocessing):
    splits = mini(make, root).load(preprocessing)
    assert splits.source == (
        "VTAB-1k KITTI/distance (processed): 4 train + 2 val + 3 test images of 4 classes, 1 of them without a "
        "training image; index list: the copy's own; miniature: proves nothing about accuracy"
    )


def test_a_list_of_both_parts_need_not_be_there(make, root: Path):
    (root / "vtab-1k" / "kitti" / "train800val200.txt").unlink()
    assert len(mini(make, root).open().train) == 4


def test_a_copy_with_the_true_numbers_is_taken_at_its_word(make, full: Path):
    sets = make("vtab/kitti", root=str(full)).open()
    assert (len(sets.train), len(sets.val), len(sets.test)) == (800, 200, 711)
    assert sets.remark == "index list: the copy's own"


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("test.txt", lambda lines: lines[:-1], "has 4 classes and 800 + 200 + 710 images"),
        (
            "train800.txt",
            lambda lines: lines[1:],
            "has 4 classes and 799 + 200 + 711 images (train + validation + test), the benchmark's has 4 and 800 + "
            "200 + 711\n",
        ),
        (
            "test.txt",
            lambda lines: [line[:-1] + "0" if line.endswith(" 3") else line for line in lines],
            "data: no test image of 1 of the 4 classes of KITTI/distance, such as '3'\n",
        ),
    ],
)
def test_numbers_that_are_not_the_benchmarks_are_refused(make, full, tmp_path, name: str, change, complaint: str):
    root = tmp_path / "copy"
    shutil.copytree(full, root)
    (root / "vtab-1k" / "kitti" / "train800val200.txt").unlink()
    relist(root, name, change)
    with pytest.raises(ConfigError) as error:
        make("vtab/kitti", root=str(root)).check()
    assert complaint in str(error.value)
    assert "data.miniature=true rehearses" in str(error.value)


@pytest.mark.parametrize(("ending", "warns"), [("jpg", True), ("png", False)])
@pytest.mark.parametrize(("task", "small"), [("svhn", True), ("dtd", False)])
def test_small_images_as_jpeg_are_warned_of_once(make, tmp_path, caplog, task, small, ending, warns):
    benchmark._warn_of_jpeg.cache_clear()
    processed(tmp_path / task, task, ending=ending)
    with caplog.at_level(logging.WARNING, "peft_vision"):
        for _ in range(2):
            mini(make, tmp_path, task).open()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (small and warns)
    assert all("SVHN were saved as JPEG" in text and "data.source=original or tfds" in text for text in said)


def test_provenance_has_encoding_and_checksums(make, root: Path, preprocessing):
    folder = root / "vtab-1k" / "kitti"
    (folder / "images" / "val200" / "000001.png").rename(folder / "images" / "val200" / "a.jpg")
    relist(root, "val200.txt", lambda lines: [lines[0], "images/val200/a.jpg 3"])
    found = dict(mini(make, root).load(preprocessing).provenance)
    sums = {key: found.pop(key) for key in ("train800.txt", "val200.txt", "test.txt", "train800val200.txt", "images")}
    assert found == {
        "source": "processed",
        "index list": "the copy's own",
        "miniature": "proves nothing about accuracy",
        "encoding": "PNG",  # whatever the file is called
    }
    assert all(re.match(r"sha256 [0-9a-f]{64}", text) for text in sums.values())
    assert sums["images"].endswith(" of 4 + 2 images")


def test_the_checksum_of_the_images_is_of_the_1000_whatever_the_stage(make, root: Path, preprocessing):
    tuned, final = (mini(make, root, stage=stage).load(preprocessing).provenance for stage in ("tune", "final"))
    folder = root / "vtab-1k" / "kitti" / "images"
    shutil.copy(folder / "test" / "000002.png", folder / "test" / "000001.png")
    other_test = mini(make, root).load(preprocessing).provenance
    shutil.copy(folder / "val200" / "000000.png", folder / "val200" / "000001.png")
    other_val = mini(make, root).load(preprocessing).provenance
    assert tuned["images"] == final["images"] == other_test["images"] != other_val["images"]


def test_a_result_has_group_and_provenance(root: Path):
    words = ("experiment=smoke", "data=vtab/kitti", "data.train_size=null", "data.miniature=true", "method=linear")
    outcome = call(*words, f"data.root={root}", cwd=root)
    assert outcome.code == 0, outcome.err
    data = json.loads((run_folder(root / "runs") / "result.json").read_text())["data"]
    assert data["group"] == "structured"
    assert (data["provenance"]["source"], data["provenance"]["encoding"]) == ("processed", "PNG")
    assert data["provenance"]["miniature"] == "proves nothing about accuracy"
    assert data["images"] == {"train": 4, "val": 2, "test": 3}
