import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vtab_originals_miniatures as written
from peft_vision.core.config import ConfigError
from peft_vision.data.benchmark import TASKS, Release
from peft_vision.data.pictures import Labelled
from peft_vision.data.vtab.raw import camelyon, dsprites, smallnorb
from peft_vision.data.vtab.raw.retinopathy import btgraham_300
from peft_vision.data.vtab.raw.table import READERS

pytestmark = pytest.mark.usefixtures("any_checksum")

DRAWN = "caltech101"  # the one task of which the benchmark's own choice is not known


@pytest.fixture
def opened(vtab_original) -> Callable[[str], Release]:
    return lambda task: READERS[task](vtab_original(task))


def by_place(part: Labelled) -> dict[int, int]:
    """The label of each image by its row, of pictures that are rows of an array."""
    rows = getattr(part.pictures, "rows", torch.arange(len(part.pictures)))
    return dict(zip(np.asarray(rows)[part.indices.numpy()].tolist(), part.labels.tolist(), strict=True))


def by_name(part: Labelled) -> dict[str, int]:
    """The label of each image by the name of its file."""
    names = [Path(part.pictures.name(index)).name for index in part.indices.tolist()]
    return dict(zip(names, part.labels.tolist(), strict=True))


def pixels(part: Labelled, position: int) -> np.ndarray:
    image = part.pictures.read(int(part.indices[position]))
    part.pictures.verify(int(part.indices[position]))
    assert image.mode == "RGB"
    return np.asarray(image)


def test_every_task_has_a_reader():
    assert READERS.keys() == TASKS.keys()


@pytest.mark.parametrize("task", [task for task in TASKS if task != DRAWN])
def test_the_choice_is_the_benchmarks_own_and_said_to_be(opened, task: str):
    release = opened(task)
    assert (release.chosen, release.remark) == (True, "")
    assert release.val is not None


@pytest.mark.parametrize("task", TASKS)
def test_labels_are_of_the_classes_and_files_are_there(opened, task: str):
    release = opened(task)
    assert all(file.is_file() for file in release.files)
    for part in filter(None, (release.train, release.val, release.test)):
        assert len(part)
        assert part.labels.dtype == torch.int64
        assert 0 <= part.labels.min() <= part.labels.max() < len(release.classes)
        assert pixels(part, 0).ndim == 3


@pytest.mark.parametrize("task", TASKS)
def test_a_copy_elsewhere_has_the_same_fingerprint(vtab_original, task: str, tmp_path: Path):
    here = vtab_original(task)
    there = Path(shutil.copytree(here, tmp_path / "elsewhere" / "datasets"))
    first, second = READERS[task](here), READERS[task](there)
    assert first.train.digest() == second.train.digest() != first.test.digest()
    indices = first.test.indices[:2]
    assert list(first.test.pictures.contents(indices)) == list(second.test.pictures.contents(indices))


@pytest.mark.parametrize(
    "task", ["camelyon", "clevr_count", "clevr_distance", "kitti", "smallnorb_azimuth", "smallnorb_elevation"]
)
def test_classes_are_as_many_as_the_task_has(opened, task: str):
    assert len(opened(task).classes) == TASKS[task].num_classes


def test_thirty_caltech_images_of_each_class_train_but_29_of_the_background(opened):
    release = opened("caltech101")
    assert release.classes == ("BACKGROUND_Google", "ant", "bee")
    assert torch.bincount(release.train.labels).tolist() == [29, 30, 30]
    assert torch.bincount(release.test.labels).tolist() == [2, 2, 3]
    assert release.val is None
    assert not release.chosen
    assert "drawn by peft-vision" in release.remark
    used = release.train.indices.tolist() + release.test.indices.tolist()
    assert sorted(used) == list(range(96))


def test_caltech_without_its_background_is_refused(vtab_original):
    root = vtab_original("caltech101")
    shutil.rmtree(root / "caltech101" / "101_ObjectCategories" / "BACKGROUND_Google")
    with pytest.raises(ConfigError, match="lacks BACKGROUND_Google; VTAB counts it among its 102 classes"):
        READERS["caltech101"](root)


@pytest.mark.parametrize(
    ("task", "sizes"),
    [("cifar100", (360, 40, 400)), ("svhn", (36, 4, 40)), ("pets", (118, 30, 148)), ("dtd", (188, 188, 188))],
)
def test_torchvisions_data_sets_are_cut_as_the_benchmark_cuts_them(opened, task: str, sizes: tuple[int, ...]):
    release = opened(task)
    assert (len(release.train), len(release.val), len(release.test)) == sizes


@pytest.mark.parametrize(("task", "classes"), [("cifar100", 100), ("svhn", 10)])
def test_labels_of_arrays_stay_with_their_images(opened, task: str, classes: int):
    release = opened(task)
    for part in (release.train, release.val, release.test):
        assert part.labels.tolist() == [index % classes for index in part.indices.tolist()]
    kept = {*release.train.indices.tolist(), *release.val.indices.tolist()}
    assert len(kept) == len(release.train) + len(release.val)


@pytest.mark.parametrize("task", ["pets", "dtd"])
def test_labels_of_files_stay_with_their_images(opened, task: str):
    release = opened(task)
    for part in (release.train, release.val, release.test):
        for index, label in zip(part.indices.tolist(), part.labels.tolist(), strict=True):
            assert f"{'breed_' if task == 'pets' else 'texture'}{label:02d}" in part.pictures.name(index)


@pytest.mark.parametrize(("task", "sizes"), [("eurosat", (30, 10, 10)), ("resisc45", (6, 2, 2))])
def test_satellite_images_are_divided_60_20_20(opened, task: str, sizes: tuple[int, ...]):
    release = opened(task)
    assert (len(release.train), len(release.val), len(release.test)) == sizes
    names = set()
    for part in (release.train, release.val, release.test):
        for name, label in by_name(part).items():
            assert name.startswith(release.classes[label])
            names.add(name)
    assert len(names) == sum(sizes)


def test_eurosat_of_its_newer_archive_is_read_too(vtab_original):
    root = vtab_original("eurosat")
    (root / "eurosat" / "2750").rename(root / "EuroSAT_RGB")
    (root / "eurosat").rmdir()
    assert len(READERS["eurosat"](root).train) == 30


def test_sun_is_divided_by_the_lists(opened, picture):
    release = opened("sun397")
    assert release.classes == ("/a/abbey", "/c/church/indoor", "/c/church/outdoor")
    assert by_name(release.train) == {"sun_a.jpg": 0, "sun_b.jpg": 2, "sun_c.jpg": 2}
    assert by_name(release.val) == {"sun_d.jpg": 0}
    assert by_name(release.test) == {"sun_e.jpg": 1, "sun_f.jpg": 0}
    assert np.array_equal(pixels(release.val, 0), np.asarray(picture(ord("d"))))


def test_large_images_of_sun_are_made_smaller_as_in_the_benchmark(opened):
    release = opened("sun397")
    position = list(by_name(release.test)).index("sun_f.jpg")
    assert pixels(release.test, position).shape == (268, 447, 3)  # 300 and 500 times the root of 120,000 / 150,000


def test_sun_without_lists_has_its_test_part_drawn(vtab_original):
    root = vtab_original("sun397")
    for file in root.glob("sun397_tfds_*.txt"):
        file.unlink()
    release = READERS["sun397"](root)
    assert (len(release.train), release.val, len(release.test)) == (5, None, 1)
    assert not release.chosen
    assert release.remark.startswith("test part drawn by peft-vision, for want of sun397_tfds_tr.txt")


def test_camelyon_keeps_its_splits(opened):
    release = opened("camelyon")
    for part, split in ((release.train, "train"), (release.val, "valid"), (release.test, "test")):
        assert by_place(part) == dict(enumerate(written.CAMELYON[split]))
        for position, index in enumerate(part.indices.tolist()):
            assert np.array_equal(pixels(part, position), written.camelyon_pixels(split)[index])


def test_retinopathy_validates_publicly_and_tests_privately(opened):
    release = opened("retinopathy")
    for part, usage in ((release.train, "train"), (release.val, "Public"), (release.test, "Private")):
        expected = {f"{name}.jpeg": level for name, level in written.RETINOPATHY[usage].items()}
        assert by_name(part) == expected


def test_eye_grounds_are_prepared_when_they_are_read(opened):
    release = opened("retinopathy")
    with Image.open(release.test.pictures.name(0)) as image:
        published = image.convert("RGB")
    assert np.array_equal(np.asarray(release.test.pictures.read(0)), np.asarray(btgraham_300(published)))


def test_clevr_is_labelled_by_its_scenes(vtab_original, picture):
    root = vtab_original("clevr_count")
    for task, labels in (("clevr_count", written.CLEVR_COUNT), ("clevr_distance", written.CLEVR_DISTANCE)):
        release = READERS[task](root)
        assert (len(release.train), len(release.val)) == (9, 1)
        found = by_name(release.train) | by_name(release.val)
        assert found == {f"CLEVR_train_{index:06d}.png": label for index, label in enumerate(labels["train"])}
        assert by_name(release.test) == {
            f"CLEVR_val_{index:06d}.png": label for index, label in enumerate(labels["val"])
        }
        assert np.array_equal(pixels(release.test, 1), np.asarray(picture(1)))


def test_dmlab_is_read_out_of_its_records(opened, picture):
    release = opened("dmlab")
    for part, split in ((release.train, "train"), (release.val, "validation"), (release.test, "test")):
        assert by_place(part) == dict(enumerate(written.DMLAB[split]))
        for position, index in enumerate(part.indices.tolist()):
            assert np.array_equal(pixels(part, position), np.asarray(picture(index)))


def test_kitti_is_divided_by_video(opened, picture):
    release = opened("kitti")
    # of ten videos in order, numpy's seed 123 draws the fifth to test on and then the fourth to validate on
    assert by_name(release.test) == {"000001.png": 1, "000011.png": 1}
    assert by_name(release.val) == {"000004.png": 0, "000014.png": 0}
    others = [image for image in range(20) if image not in (1, 11, 4, 14)]
    assert by_name(release.train) == {f"{image:06d}.png": written.KITTI[image] for image in others}
    assert np.array_equal(pixels(release.test, 0), np.asarray(picture(1)))


@pytest.mark.parametrize("chunk", [3, 4096])
def test_dsprites_are_unpacked_from_the_archive(opened, monkeypatch, chunk: int):
    monkeypatch.setattr(dsprites, "_CHUNK", chunk)
    release = opened("dsprites_location")
    assert (len(release.train), len(release.val), len(release.test)) == (16, 2, 2)
    images, _ = written.dsprites_arrays()
    found = {}
    for part in (release.train, release.val, release.test):
        found |= by_place(part)
        for position, row in enumerate(by_place(part)):
            assert np.array_equal(pixels(part, position), np.repeat(images[row, ..., None] * 255, 3, axis=2))
    assert [found[row] for row in range(20)] == written.DSPRITES_LOCATION


def test_orientations_of_dsprites_are_another_task(opened):
    release = opened("dsprites_orientation")
    found = by_place(release.train) | by_place(release.val) | by_place(release.test)
    assert [found[row] for row in range(20)] == written.DSPRITES_ORIENTATION


def test_only_images_that_are_chosen_are_kept(opened, monkeypatch):
    monkeypatch.setattr("peft_vision.data.vtab.choice.TRAIN", 3)
    release = opened("dsprites_location")
    assert len(release.train) == 3
    assert len(release.train.pictures) == 3 + 2 + 2


@pytest.mark.parametrize("chunk", [2, 512])
def test_smallnorb_is_read_packed_and_unpacked(vtab_original, monkeypatch, chunk: int):
    monkeypatch.setattr(smallnorb, "_CHUNK", chunk)
    root = vtab_original("smallnorb_azimuth")
    for task, labels in (
        ("smallnorb_azimuth", written.SMALLNORB_AZIMUTH),
        ("smallnorb_elevation", written.SMALLNORB_ELEVATION),
    ):
        release = READERS[task](root)
        assert by_place(release.train) == dict(enumerate(labels["training"]))
        assert (len(release.val), len(release.test)) == (3, 3)
        assert by_place(release.val) | by_place(release.test) == dict(enumerate(labels["testing"]))
    for part, name in ((release.train, "training"), (release.val, "testing"), (release.test, "testing")):
        for position, row in enumerate(by_place(part)):
            left = written.smallnorb_pixels(name)[row, 0]
            assert np.array_equal(pixels(part, position), np.repeat(left[..., None], 3, axis=2))


@pytest.mark.parametrize(
    "task", ["camelyon", "clevr_count", "dmlab", "dsprites_location", "kitti", "retinopathy", "smallnorb_azimuth"]
)
def test_opening_a_release_reads_no_image(vtab_original, monkeypatch, task: str):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an image was read")

    root = vtab_original(task)
    for owner, name in ((dsprites, "_chunks"), (smallnorb, "_chunks"), (camelyon.Patches, "values"), (Image, "open")):
        monkeypatch.setattr(owner, name, refuse)
    release = READERS[task](root)
    with pytest.raises(AssertionError, match="an image was read"):
        release.test.pictures.read(0)
