import json
from pathlib import Path

import pytest

from ood_miniatures import imagenet, shown
from peft_vision.core.config import ConfigError
from peft_vision.data.imagenet import NAMES, subclass_labels, superclasses, synsets
from peft_vision.ood.match import matched, refuse_seen
from shift_miniatures import make_ood

FACTS = Path(__file__).resolve().parents[3] / "shared" / "facts" / "breeds_splits.json"
SIZES = {"living17": (17, 2), "nonliving26": (26, 2), "entity13": (13, 10), "entity30": (30, 4)}


@pytest.fixture(scope="module", params=["living17", "entity30"])
def published(request, tmp_path_factory) -> tuple[str, Path]:
    """The name of a set, and an ImageNet whose pictures show their superclass in it."""
    labels = subclass_labels(request.param, "source") | subclass_labels(request.param, "target")
    return request.param, imagenet(tmp_path_factory.mktemp("sets") / request.param, labels)


@pytest.mark.parametrize("name", NAMES)
def test_each_superclass_has_as_many_subclasses_to_train_on_as_to_shift_to(name: str):
    classes, subclasses = SIZES[name]
    assert len(set(superclasses(name))) == classes
    halves = [subclass_labels(name, which) for which in ("source", "target")]
    for labels in halves:
        assert sorted(labels.values()) == [label for label in range(classes) for _ in range(subclasses)]
        assert labels.keys() <= set(synsets("all"))
    assert halves[0].keys().isdisjoint(halves[1])


@pytest.mark.parametrize("name", NAMES)
def test_the_splits_are_those_of_robustness(name: str):
    if not FACTS.is_file():
        pytest.skip(f"no {FACTS}")
    splits = json.loads(FACTS.read_text())[name]
    for which in ("source", "target"):
        expected = {wnid: label for label, wnids in enumerate(splits[f"{which}_wnids"]) for wnid in wnids}
        assert subclass_labels(name, which) == expected
        assert [synsets("all").index(wnid) for wnid in expected] == [
            index for group in splits[which] for index in group
        ]
    assert [whole.split(",")[0] for whole in splits["names"]] == list(superclasses(name))


def test_the_bears_are_those_of_the_paper():
    bear = superclasses("living17").index("bear")
    sloth_bear, american_black_bear, polar_bear, brown_bear = "n02134418", "n02133161", "n02134084", "n02132136"
    source, target = (subclass_labels("living17", which) for which in ("source", "target"))
    assert {wnid for wnid, label in source.items() if label == bear} == {sloth_bear, american_black_bear}
    assert {wnid for wnid, label in target.items() if label == bear} == {polar_bear, brown_bear}


def test_a_run_trains_and_tests_on_the_source_subclasses(make, published: tuple[str, Path], preprocessing):
    name, folder = published
    data = make(name, path=str(folder), val_fraction=0.25)
    data.check()
    sets = data.open()
    classes, subclasses = SIZES[name]
    for split, part, count in (("train", sets.train, 2), ("val", sets.test, 1)):
        assert shown(part) == part.labels.tolist()
        assert len(part) == count * classes * subclasses
        folders = {tuple(path.split("/")[:2]) for path in part.pictures.paths}
        assert folders == {(split, wnid) for wnid in subclass_labels(name, "source")}
    splits = data.load(preprocessing)
    assert splits.classes == superclasses(name)
    train = 2 * classes * subclasses
    val = round(0.25 * train)
    assert splits.source == (
        f"{name}: {train - val} train + {val} val + {train // 2} test images of {classes} classes; "
        "source subclasses, tested on the official validation images of them"
    )


def test_the_shift_has_the_classes_of_the_run_and_none_of_its_pictures(make, published: tuple[str, Path]):
    name, folder = published
    sets, ood = make(name, path=str(folder)).open(), make_ood(name, path=str(folder))
    shift = ood.open()[""]
    found = matched(shift, ood, sets.classes, where=f"ood.{name}")
    assert shown(found.labelled) == found.labelled.labels.tolist()
    refuse_seen(shift.labelled, [sets.train, sets.test], where=f"ood.{name}")


def test_the_rest_of_imagenet_is_passed_over(make, tmp_path: Path):
    imagenet(tmp_path, dict.fromkeys(subclass_labels("living17", "source"), 0) | {"n01440764": 1})
    sets = make("living17", path=str(tmp_path)).open()
    assert set(shown(sets.train)) == {0}


def test_source_subclasses_that_are_not_there_are_named(make, tmp_path: Path):
    labels = subclass_labels("living17", "source")
    imagenet(tmp_path, dict(list(labels.items())[2:]))
    first = ", ".join(list(labels)[:2])
    with pytest.raises(ConfigError, match=f"^data.path: {tmp_path}/train lacks 2 of 34 class folders: {first}\n"):
        make("living17", path=str(tmp_path)).check()


def test_an_unknown_set_is_refused(make):
    with pytest.raises(ConfigError, match=r"data.name: got 'living71', should be 'living17', 'nonliving26', "):
        make("living17", name="living71")
