import time
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from ood_miniatures import class_folders, shown
from peft_vision.core.config import ConfigError
from peft_vision.data.imagenet import synsets
from peft_vision.ood.match import matched
from shift_miniatures import make_ood

RUN = synsets("all")
PLACES = {wnid: place for place, wnid in enumerate(RUN)}
SUBSETS = {"imagenet_r": "r", "imagenet_a": "a"}
THOUSAND = ("imagenet_v2", "imagenet_sketch")


def folders(name: str) -> dict[str, int]:
    """The class folders of the set, each with the place of its class in ImageNet."""
    if name == "imagenet_v2":
        return {str(place): place for place in range(1000)}
    return {wnid: PLACES[wnid] for wnid in synsets(SUBSETS.get(name, "all"))}


def published(folder: Path, name: str) -> Path:
    endings = {"imagenet_v2": "jpeg", "imagenet_sketch": "JPEG"}
    class_folders(folder, folders(name), [f"sketch_1.{endings.get(name, 'jpg')}"])
    (folder / "README.txt").write_text("no class")
    return folder


def empty(folder: Path, name: str) -> Path:
    """Class folders without a picture."""
    return class_folders(folder, folders(name), [])


def timms_indices(which: str) -> list[int]:
    return [int(line) for line in (files("timm.data") / "_info" / f"imagenet_{which}_indices.txt").read_text().split()]


@pytest.mark.parametrize("which", ["r", "a"])
def test_timms_lists_agree_on_the_two_hundred_classes(which: str):
    assert [RUN[index] for index in timms_indices(which)] == list(synsets(which))
    assert len(set(RUN)) == 1000
    assert sorted(RUN) == list(RUN)


@pytest.mark.parametrize("name", [*THOUSAND, *SUBSETS])
def test_a_picture_lands_on_its_class_in_the_run(tmp_path: Path, name: str):
    ood = make_ood(name, path=str(published(tmp_path / "set", name)))
    ood.check()
    found = matched(ood.open()[""], ood, RUN, where=f"ood.{name}")
    assert len(found.labelled) == len(folders(name))
    assert shown(found.labelled) == found.labelled.labels.tolist()
    assert found.dropped == ()


@pytest.mark.parametrize("name", ["imagenet_v2", "imagenet_r"])
def test_a_picture_lands_on_its_class_when_the_run_orders_them_otherwise(tmp_path: Path, name: str):
    ood = make_ood(name, path=str(published(tmp_path / "set", name)))
    run = RUN[::-1]
    found = matched(ood.open()[""], ood, run, where=f"ood.{name}").labelled
    assert [RUN[place] for place in shown(found)] == [run[label] for label in found.labels.tolist()]


def test_numbers_are_not_sorted_as_text(tmp_path: Path):
    ood = make_ood("imagenet_v2", path=str(published(tmp_path / "set", "imagenet_v2")))
    shift = ood.open()[""]
    (position,) = [i for i, path in enumerate(shift.labelled.pictures.paths) if path.startswith("10/")]
    assert shift.classes[shift.labelled.labels[position]] == sorted(RUN)[10]


@pytest.mark.parametrize(("name", "which"), SUBSETS.items())
def test_only_the_two_hundred_classes_can_be_predicted(tmp_path: Path, name: str, which: str):
    ood = make_ood(name, path=str(published(tmp_path / "set", name)))
    found = matched(ood.open()[""], ood, RUN, where=f"ood.{name}")
    assert found.predictable.nonzero().squeeze(1).tolist() == timms_indices(which)
    assert len(found.missing) == 800


@pytest.mark.parametrize("name", THOUSAND)
def test_all_classes_can_be_predicted(tmp_path: Path, name: str):
    ood = make_ood(name, path=str(published(tmp_path / "set", name)))
    found = matched(ood.open()[""], ood, RUN, where=f"ood.{name}")
    assert torch.equal(found.predictable, torch.ones(1000, dtype=torch.bool))


def test_a_run_without_wordnet_ids_is_refused(tmp_path: Path):
    ood = make_ood("imagenet_a", path=str(published(tmp_path / "set", "imagenet_a")))
    with pytest.raises(ConfigError, match=r"ood.a: none of its classes .*'n01498041', .* has 'tench', 'shark'"):
        matched(ood.open()[""], ood, ("tench", "shark"), where="ood.a")


@pytest.mark.parametrize(
    ("name", "origin", "layout"),
    [
        ("imagenet_v2", "1.3 GB packed), is at huggingface.co/datasets/vaishaal/ImageNetV2", "0/*.jpeg to 999/*.jpeg"),
        ("imagenet_r", "2.2 GB packed) is at github.com/hendrycks/imagenet-r", "n01443537/*.jpg"),
        ("imagenet_a", "0.7 GB packed) is at github.com/hendrycks/natural-adv-examples", "n01498041/*.jpg"),
        ("imagenet_sketch", "8 GB packed) is at github.com/HaohanWang/ImageNet-Sketch", "n01440764/*.JPEG"),
    ],
)
def test_a_set_that_is_not_there_is_refused_with_where_it_comes_from(tmp_path, name: str, origin: str, layout: str):
    with pytest.raises(ConfigError) as error:
        make_ood(name, path=str(tmp_path / "set")).check()
    message = str(error.value)
    assert message.startswith(f"path: no folder {tmp_path}/set, which should hold ")
    assert origin in message
    assert f"path holds {layout}" in message
    assert len(message.splitlines()) == 2


def test_the_path_may_begin_with_home(tmp_path: Path, monkeypatch):
    empty(tmp_path / "imagenet-a", "imagenet_a")
    monkeypatch.setenv("HOME", str(tmp_path))
    make_ood("imagenet_a", path="~/imagenet-a").check()


def test_classes_that_the_folder_lacks_are_named_and_counted(tmp_path: Path):
    folder = empty(tmp_path / "set", "imagenet_r")
    gone = synsets("r")[3:8]
    for wnid in gone:
        (folder / wnid).rmdir()
    with pytest.raises(ConfigError) as error:
        make_ood("imagenet_r", path=str(folder)).check()
    message = f"path: {folder} lacks 5 of 200 class folders: {', '.join(gone[:3])}, ...\nImageNet-R"
    assert str(error.value).startswith(message)


def test_folders_that_are_no_class_of_the_set_are_named_and_counted(tmp_path: Path):
    folder = empty(tmp_path / "set", "imagenet_r")
    (folder / "n01440764").mkdir()  # of ImageNet, not of ImageNet-R
    (folder / "misc").mkdir()
    (folder / ".cache").mkdir()
    with pytest.raises(ConfigError) as error:
        make_ood("imagenet_r", path=str(folder)).check()
    message = f"path: {folder} holds 2 folders beside its 200 classes: misc, n01440764\n"
    assert str(error.value).startswith(message)


def test_one_set_is_not_taken_for_another(tmp_path: Path):
    folder = empty(tmp_path / "set", "imagenet_sketch")
    with pytest.raises(ConfigError, match=f"{folder} lacks 1,000 of 1,000 class folders: 0, 1, 2, ..."):
        make_ood("imagenet_v2", path=str(folder)).check()
    with pytest.raises(ConfigError, match=f"{folder} holds 800 folders beside its 200 classes: "):
        make_ood("imagenet_a", path=str(folder)).check()


def test_the_folder_above_the_set_is_not_taken_for_it(tmp_path: Path):
    empty(tmp_path / "imagenet-a", "imagenet_a")
    with pytest.raises(ConfigError, match=f"^path: {tmp_path} lacks 200 of 200 class folders: n01498041, "):
        make_ood("imagenet_a", path=str(tmp_path)).check()


def test_class_folders_without_a_picture_are_named(tmp_path: Path):
    folder = empty(tmp_path / "set", "imagenet_a")
    with pytest.raises(ConfigError, match=f"^path: no image in 200 class folders of {folder}: n01498041, "):
        make_ood("imagenet_a", path=str(folder)).open()


def test_fifty_thousand_pictures_are_listed_within_seconds(tmp_path: Path):
    folder = empty(tmp_path / "sketch", "imagenet_sketch")
    for wnid in RUN:
        for number in range(50):
            (folder / wnid / f"sketch_{number}.JPEG").touch()
    ood = make_ood("imagenet_sketch", path=str(folder))
    start = time.monotonic()
    ood.check()
    assert len(ood.open()[""].labelled) == 50_000
    assert time.monotonic() - start < 10
