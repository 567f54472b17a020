"""VTAB-1k from a folder of TensorFlow Datasets: slices, labels, and folders that are not whole."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from peft_vision.core.config import ConfigError
from peft_vision.data.benchmark import TASKS
from peft_vision.data.decode import Geometry
from peft_vision.data.vtab.tfds import PREPARED
from peft_vision.data.vtab.tfrecord import Encoded, example
from tfrecord_writer import example_bytes, write_records
from vtab_miniatures import HIGHEST, encoded, labels, prepared

NAMES = {
    "caltech101": "caltech101/3.0.1",
    "cifar100": "cifar100/3.0.2",
    "dtd": "dtd/3.0.1",
    "flowers102": "oxford_flowers102/2.1.1",
    "pets": "oxford_iiit_pet/3.2.0",
    "svhn": "svhn_cropped/3.0.0",
    "sun397": "sun397/tfds/4.0.0",
    "camelyon": "patch_camelyon/2.0.0",
    "eurosat": "eurosat/rgb/2.0.0",
    "resisc45": "resisc45/3.0.0",
    "retinopathy": "diabetic_retinopathy_detection/btgraham-300/3.0.0",
    "clevr_count": "clevr/3.1.0",
    "clevr_distance": "clevr/3.1.0",
    "dmlab": "dmlab/2.0.1",
    "kitti": "kitti/3.2.0",
    "dsprites_location": "dsprites/2.0.0",
    "dsprites_orientation": "dsprites/2.0.0",
    "smallnorb_azimuth": "smallnorb/2.0.0",
    "smallnorb_elevation": "smallnorb/2.0.0",
}
ALL = list(range(10))
# of ten records in train and validation and four in test: the places in which split are train800, val200 and test
OFFICIAL = (ALL, ALL, [0, 1, 2, 3])
TENTH = (ALL[:9], [9], [0, 1, 2, 3])
SLICES = {
    "caltech101": TENTH,
    "cifar100": TENTH,
    "dtd": OFFICIAL,
    "flowers102": OFFICIAL,
    "pets": (ALL[:8], [8, 9], [0, 1, 2, 3]),
    "svhn": TENTH,
    "sun397": OFFICIAL,
    "camelyon": OFFICIAL,
    "eurosat": (ALL[:6], [6, 7], [8, 9]),
    "resisc45": (ALL[:6], [6, 7], [8, 9]),
    "retinopathy": OFFICIAL,
    "clevr_count": (ALL[:9], [9], ALL),
    "clevr_distance": (ALL[:9], [9], ALL),
    "dmlab": OFFICIAL,
    "kitti": OFFICIAL,
    "dsprites_location": (ALL[:8], [8], [9]),
    "dsprites_orientation": (ALL[:8], [8], [9]),
    "smallnorb_azimuth": (ALL, [0, 1], [2, 3]),
    "smallnorb_elevation": (ALL, [0, 1], [2, 3]),
}
COUNTS = {"train": (4, 6), "validation": (10,), "test": (3, 1)}


def write(root: Path, task: str, **changes) -> Path:
    return prepared(root / NAMES[task], NAMES[task].split("/")[0], task, {**COUNTS, **changes})


def mini(make, root: Path, task: str = "cifar100", **overrides):
    return make(f"vtab/{task}", source="tfds", root=str(root), miniature=True, **overrides)


@pytest.mark.parametrize("task", HIGHEST)
def test_splits_are_slices_and_labels_are_the_tasks(make, tmp_path: Path, task: str):
    write(tmp_path, task)
    sets = mini(make, tmp_path, task).open()
    highest = HIGHEST[task]
    sequence = [0, highest, 1, 0, highest, 1, 0, highest, 1, 0]
    for part, places in zip((sets.train, sets.val, sets.test), SLICES[task], strict=True):
        assert part.labels.tolist() == [sequence[place] for place in places]
        greys = [part.pictures.read(index).getpixel((3, 4)) for index in part.indices.tolist()]
        silhouettes = task.startswith("dsprites")
        assert greys == [(min(255 * place, 255) if silhouettes else place,) * 3 for place in places]
    assert sets.provenance["index list"] == "as the official one, slices of the splits of TensorFlow Datasets"
    assert sets.provenance["source"] == "tfds"
    assert sets.group == TASKS[task].group


@pytest.mark.parametrize("channels", [1, 3])
def test_the_model_gets_silhouettes_as_black_and_white(make, tmp_path: Path, channels: int):
    task = "dsprites_orientation"
    write(tmp_path, task)
    pictures = mini(make, tmp_path, task).open().train.pictures
    geometry = Geometry(8, "squash", 1.0, "bilinear", channels=channels)
    shaped = [pictures.shaped(index, geometry)[:, 4, 4].tolist() for index in (0, 1)]
    assert shaped == [[0] * channels, [255] * channels]
    assert np.asarray(pictures.with_channels(1, 2))[4, 4, 0] == 255


def test_silhouettes_are_other_pictures_than_their_files(make, tmp_path: Path):
    write(tmp_path, "dsprites_orientation")
    whitened = mini(make, tmp_path, "dsprites_orientation").open().train.pictures
    stored, first = Encoded(whitened.places), torch.tensor([0])
    assert [*whitened.identify(first)] != [*stored.identify(first)]
    assert [*whitened.contents(first)] != [*stored.contents(first)]


def test_no_more_than_800_and_200_are_taken(make, tmp_path: Path):
    write(tmp_path, "dtd", train=(500, 600), validation=(150, 100))
    sets = mini(make, tmp_path, "dtd").open()
    assert (len(sets.train), len(sets.val), len(sets.test)) == (800, 200, 4)
    assert sets.train.labels.tolist() == labels("dtd", 1100)[:800]
    assert sets.val.labels.tolist() == labels("dtd", 250)[:200]


def test_the_numbers_are_asserted(make, tmp_path: Path):
    write(tmp_path, "kitti", test=(2, 2))
    with pytest.raises(ConfigError, match=r"data: .* KITTI/distance"):
        make("vtab/kitti", source="tfds", root=str(tmp_path)).check()


def test_classes_have_their_names(make, tmp_path: Path):
    names = [f"thing {label}" for label in range(100)]
    (write(tmp_path, "cifar100") / "label.labels.txt").write_text("\n".join(names) + "\n")
    assert mini(make, tmp_path).open().classes == tuple(names)


def test_another_version_is_taken_and_said(make, tmp_path: Path, preprocessing):
    shutil.move(write(tmp_path, "cifar100"), tmp_path / "cifar100" / "4.0.0")
    splits = mini(make, tmp_path).load(preprocessing)
    assert splits.provenance["remark"] == "prepared as version 4.0.0; the official list is of 3.0.2"
    assert "; prepared as version 4.0.0; the official" in splits.source


def test_provenance_has_the_encoding_and_the_checksum_of_the_description(make, tmp_path: Path, preprocessing):
    write(tmp_path, "cifar100")
    found = mini(make, tmp_path).load(preprocessing).provenance
    assert found["encoding"] == "PNG"
    assert found["dataset_info.json"].startswith("sha256 ")


def nothing(root: Path) -> str:
    shutil.rmtree(root / "cifar100")
    found = f"{root} lacks 1 of 1 parts of cifar100: cifar100/*/dataset_info.json"
    return f"data.root: {found}\nwhere TensorFlow Datasets is installed, tfds.load("


def a_file_is_missing(root: Path) -> str:
    file = root / "cifar100" / "3.0.2" / "cifar100-train.tfrecord-00001-of-00002"
    file.unlink()
    return f"data.root: {file.parent} lacks 1 of 4 files of dataset_info.json: {file.name}\nprepare it anew"


def too_few_records(root: Path) -> str:
    file = root / "cifar100" / "3.0.2" / "cifar100-test.tfrecord-00000-of-00002"
    shutil.copy(file.with_name("cifar100-test.tfrecord-00001-of-00002"), file)
    return f"data: {file} has 1 records, should have 3; prepare it anew"


def torn(root: Path) -> str:
    file = root / "cifar100" / "3.0.2" / "cifar100-test.tfrecord-00000-of-00002"
    file.write_bytes(file.read_bytes()[:-1])
    return f"data: {file} is cut off"


def another_data_set(root: Path) -> str:
    file = root / "cifar100" / "3.0.2" / "cifar100-test.tfrecord-00001-of-00002"
    write(root, "smallnorb_azimuth")
    shutil.copy(root / "smallnorb" / "2.0.0" / "smallnorb-test.tfrecord-00001-of-00002", file)
    return f"data: {file} has no image and label of cifar100 at byte 12 (KeyError: 'label')"


def record_of(features: dict[str, list]) -> Callable[[Path], Path]:
    """The one record of a file, with a picture and these `features`."""

    def spoil(root: Path) -> Path:
        file = root / "cifar100" / "3.0.2" / "cifar100-test.tfrecord-00001-of-00002"
        write_records(file, [example_bytes({"image": [encoded(0)], **features})])
        return file

    return spoil


@pytest.mark.parametrize(
    ("features", "complaint"),
    [
        ({"label": [100]}, "has label 100 at byte 12, should be 0 to 99"),
        ({"label": [-1]}, "has label -1 at byte 12, should be 0 to 99"),
        ({"label": [1.0]}, "(ValueError: label is no whole number)"),
        ({"label": [float("nan")]}, "(ValueError: label is no whole number)"),
        ({"label": [b"1"]}, "(ValueError: label is no whole number)"),
        ({"label": [1, 2]}, "(ValueError: label is no whole number)"),
        ({"label": [1], "image": [5]}, "(ValueError: a picture that is no bytes)"),
    ],
)
def test_a_label_is_one_of_the_classes(make, tmp_path: Path, features: dict[str, list], complaint: str):
    prepared(tmp_path / "cifar100" / "3.0.2", "cifar100", "cifar100", {"train": (4, 6), "test": (3, 1)})
    file = record_of(features)(tmp_path)
    with pytest.raises(ConfigError) as error:
        mini(make, tmp_path).check()
    assert f"data: {file} has " in str(error.value)
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    ("task", "features"),
    [
        ("kitti", {"objects/type": [0], "objects/location": [1.0, 2.0]}),
        ("kitti", {"objects/type": [0], "objects/location": [1, 2, 3]}),
        ("kitti", {"objects/type": [0], "objects/location": [1.0, 2.0, float("nan")]}),
        ("kitti", {"objects/type": [0, 1], "objects/location": [1.0, 2.0, 3.0]}),
        ("clevr_count", {"objects/size": [1.0] * 5}),
        ("clevr_distance", {"objects/pixel_coords": [1.0, 2.0, float("inf")]}),
        ("clevr_distance", {"objects/pixel_coords": [b"1"] * 3}),
        ("clevr_distance", {"label": [1]}),
    ],
)
def test_what_labels_are_made_of_is_numbers(task: str, features: dict[str, list]):
    with pytest.raises(ValueError):  # noqa: PT011, of NumPy or of ours
        PREPARED[task].label(example(example_bytes(features)))


@pytest.mark.parametrize("names", [["a"] * 100, [f"thing {label}" for label in range(99)], ["x" * 101, *"abc"]])
def test_names_of_classes_are_as_many_as_the_classes(make, tmp_path: Path, names: list[str]):
    file = write(tmp_path, "cifar100") / "label.labels.txt"
    file.write_text("\n".join(names) + "\n")
    with pytest.raises(
        ConfigError, match=rf"data.root: {file} names \d+ classes in {len(names)} lines, should name 100"
    ):
        mini(make, tmp_path).open()


@pytest.mark.parametrize("lengths", [["-1", "11"], [], ["ten"], [None], "12", {"a": 1}, ["9" * 5000]])
def test_lengths_are_numbers_of_records(make, tmp_path: Path, lengths: object):
    file = write(tmp_path, "cifar100") / "dataset_info.json"
    file.write_text(json.dumps({"splits": [{"name": name, "shardLengths": lengths} for name in ("train", "test")]}))
    with pytest.raises(ConfigError) as error:
        mini(make, tmp_path).open()
    assert str(file.parent) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def no_lengths(root: Path) -> str:
    file = root / "cifar100" / "3.0.2" / "dataset_info.json"
    file.write_text(json.dumps({"splits": [{"name": "train"}]}))
    return f"data.root: cannot read {file} (KeyError: 'shardLengths'), should be the numbers of records in the files of"


def no_json(root: Path) -> str:
    (root / "cifar100" / "3.0.2" / "dataset_info.json").write_text("{")
    return "dataset_info.json (no JSON: Expecting"


@pytest.mark.parametrize(
    "spoil", [nothing, a_file_is_missing, too_few_records, torn, another_data_set, no_lengths, no_json]
)
def test_a_folder_that_is_not_whole_is_refused(make, tmp_path: Path, spoil):
    prepared(tmp_path / "cifar100" / "3.0.2", "cifar100", "cifar100", {"train": (4, 6), "test": (3, 1)})
    complaint = spoil(tmp_path)
    with pytest.raises(ConfigError) as error:
        mini(make, tmp_path).check()
    assert complaint in str(error.value)
    assert len(str(error.value).splitlines()) <= 2


def test_an_index_list_beside_it_is_refused(make, tmp_path: Path):
    write(tmp_path, "cifar100")
    with pytest.raises(
        ConfigError, match=r"with data\.source=tfds the 1,000 images of cifar100 are known; data\.index_file=null"
    ):
        mini(make, tmp_path, index_file="list.txt").check()


def test_a_corrupt_image_is_named(make, tmp_path: Path, preprocessing):
    file = write(tmp_path, "cifar100") / "cifar100-train.tfrecord-00000-of-00002"
    content = file.read_bytes()
    file.write_bytes(content.replace(encoded(1), b"\0" * len(encoded(1))))
    with pytest.raises(ConfigError, match=f"data: cannot read {file} .the image at byte"):
        mini(make, tmp_path).load(preprocessing)
