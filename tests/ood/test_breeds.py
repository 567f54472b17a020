from pathlib import Path

import pytest

from ood_miniatures import imagenet, shown
from peft_vision.core.config import ConfigError
from peft_vision.data.imagenet import NAMES, subclass_labels, superclasses
from peft_vision.ood.match import matched
from shift_miniatures import make_ood


@pytest.fixture(scope="module", params=["living17", "entity30"])
def published(request, tmp_path_factory) -> tuple[str, Path]:
    """The name of a set, and an ImageNet whose pictures show their superclass in it."""
    labels = subclass_labels(request.param, "source") | subclass_labels(request.param, "target")
    return request.param, imagenet(tmp_path_factory.mktemp("sets") / request.param, labels)


def test_a_picture_lands_on_its_superclass_in_the_run(published: tuple[str, Path]):
    name, folder = published
    ood = make_ood(name, path=str(folder))
    ood.check()
    run = superclasses(name)[::-1]
    found = matched(ood.open()[""], ood, run, where=f"ood.{name}")
    assert [run[label] for label in found.labelled.labels.tolist()] == [
        superclasses(name)[place] for place in shown(found.labelled)
    ]
    assert (found.missing, found.dropped) == ((), ())


def test_the_shift_is_val_of_the_target_subclasses(published: tuple[str, Path]):
    name, folder = published
    paths = make_ood(name, path=str(folder)).open()[""].labelled.pictures.paths
    assert paths == [f"val/{wnid}/ILSVRC2012_val_1.JPEG" for wnid in subclass_labels(name, "target")]


def test_another_set_of_superclasses_is_refused(published: tuple[str, Path]):
    name, folder = published
    ood = make_ood(name, path=str(folder))
    with pytest.raises(ConfigError, match=r"ood.breeds: none of its classes is one of the run's: .*'bag', 'ball', "):
        matched(ood.open()[""], ood, superclasses("nonliving26"), where="ood.breeds")


@pytest.mark.parametrize("name", NAMES)
def test_each_option_is_the_set_of_its_name_in_the_folder_that_the_run_trains_on(name: str):
    ood = make_ood(name)
    assert (ood.name, ood.path) == (name, "${data.path}")


def test_a_folder_without_val_is_refused_with_where_it_comes_from(tmp_path: Path):
    with pytest.raises(
        ConfigError,
        match=rf"^path: no folder {tmp_path}/val, which should hold 34 class folders: .*\nImageNet \(.* is at ",
    ):
        make_ood("living17", path=str(tmp_path)).check()


def test_target_subclasses_that_are_not_there_are_named(tmp_path: Path):
    imagenet(tmp_path, subclass_labels("living17", "source"))
    first = ", ".join(list(subclass_labels("living17", "target"))[:3])
    with pytest.raises(ConfigError, match=rf"^path: {tmp_path}/val lacks 34 of 34 class folders: {first}, \.\.\.\n"):
        make_ood("living17", path=str(tmp_path)).check()


def test_val_that_is_not_sorted_into_classes_is_refused(tmp_path: Path):
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG").touch()
    with pytest.raises(
        ConfigError, match=r"lacks 34 of 34 class folders: (?s:.*), val sorted into classes as train is"
    ):
        make_ood("living17", path=str(tmp_path)).check()
