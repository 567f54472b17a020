import shutil
from pathlib import Path

import pytest
import torch

from peft_vision.core.config import ConfigError
from peft_vision.data.domainnet import SENTRY40
from shift_miniatures import DOMAINNET, domainnet, listing, shown

MINI = "txt/{domain}_{split}_mini.txt"


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    return domainnet(tmp_path_factory.mktemp("sets") / "domainnet", "sketch", "painting")


@pytest.fixture
def root(published: Path, tmp_path: Path) -> Path:
    """One to spoil."""
    return shutil.copytree(published, tmp_path / "domainnet")


def test_a_domain_is_trained_and_tested_on_by_its_lists(make, published: Path):
    sets = make("domainnet", path=str(published)).open()
    assert (len(sets.train), sets.val, len(sets.test)) == (2 * len(DOMAINNET), None, len(DOMAINNET))
    assert sets.name == "domainnet sketch"
    assert all(path.startswith("sketch/") for path in sets.train.pictures.paths)


def test_labels_are_those_of_the_lists(make, published: Path):
    sets = make("domainnet", path=str(published)).open()
    assert sets.classes == DOMAINNET
    for part in (sets.train, sets.test):
        assert part.labels.tolist() == shown(part)


@pytest.mark.parametrize("lists", ["{domain}_{split}.txt", MINI])
def test_the_forty_classes_are_the_same_from_full_and_from_mini_lists(make, published: Path, lists: str):
    sets = make("domainnet", path=str(published), classes="sentry40", lists=lists).open()
    assert sets.classes == SENTRY40
    assert (len(sets.train), len(sets.test)) == (80, 40)
    for part in (sets.train, sets.test):
        assert [SENTRY40[label] for label in part.labels.tolist()] == [DOMAINNET[place] for place in shown(part)]


def test_all_classes_of_mini_lists_are_the_forty(make, published: Path):
    assert make("domainnet", path=str(published), lists=MINI).open().classes == SENTRY40


def test_painting_is_taken_as_published_without_a_t_shirt_to_train_on(make, published: Path, preprocessing):
    splits = make("domainnet", path=str(published), domain="painting", val_fraction=0).load(preprocessing)
    assert splits.classes == DOMAINNET
    assert torch.bincount(splits.train.labels).min() == 0
    assert "45 classes, 1 of them without a training image" in splits.source


def test_a_class_of_the_forty_that_cannot_be_trained_on_is_refused(make, root: Path):
    lines = (root / "sketch_train.txt").read_text().splitlines()
    listing(root / "sketch_train.txt", [line for line in lines if "/bee/" not in line])
    with pytest.raises(ConfigError, match="no training image of class 'bee'"):
        make("domainnet", path=str(root), classes="sentry40").check()


def test_a_missing_picture_is_named_when_it_is_read(make, root: Path, preprocessing):
    (root / "sketch" / "bee" / f"sketch_{DOMAINNET.index('bee') + 1:03d}_000002.jpg").unlink()
    data = make("domainnet", path=str(root))
    data.check()
    with pytest.raises(ConfigError, match=r"data: cannot read .*sketch/bee/.*_000002.jpg"):
        data.load(preprocessing)


def line(root: Path, number: int, text: str, file: str = "sketch_train.txt") -> Path:
    lines = (root / file).read_text().splitlines()
    lines[number - 1] = text
    listing(root / file, lines)
    return root / file


def no_folder(root: Path) -> str:
    shutil.rmtree(root)
    source = "DomainNet is at ai.bu.edu/M3SDA: of its cleaned version, unpack sketch.zip (2.5 GB)"
    return f"data.path: no folder {root}, which should hold 1 parts of DomainNet's sketch: sketch\n{source}"


def no_pictures(root: Path) -> str:
    shutil.rmtree(root / "sketch")
    return f"data.path: {root} lacks 1 of 1 parts of DomainNet's sketch: sketch\nDomainNet"


def no_list(root: Path) -> str:
    (root / "sketch_test.txt").unlink()
    return f"data.lists: {root} lacks 1 of 2 parts of DomainNet's sketch: sketch_test.txt\nDomainNet"


def first_picture_gone(root: Path) -> str:
    (root / "sketch" / DOMAINNET[0] / "sketch_001_000001.jpg").unlink()
    return f"data.path: {root} lacks 1 of 1 parts of DomainNet's sketch: sketch/{DOMAINNET[0]}/sketch_001_000001.jpg\n"


def no_label(root: Path) -> str:
    file = line(root, 3, "sketch/airplane/a.jpg")
    return f"data.lists: {file} line 3 is 'sketch/airplane/a.jpg', should be 'sketch/CLASS/FILE LABEL'"


def no_whole_number(root: Path) -> str:
    return f"{line(root, 1, 'sketch/airplane/a.jpg 1.5')} line 1 is"


def no_class(root: Path) -> str:
    return f"{line(root, 2, 'sketch/a.jpg 1')} line 2 is"


def blank(root: Path) -> str:
    return f"{line(root, 2, '')} line 2 is ''"


def other_domain(root: Path) -> str:
    return f"{line(root, 2, 'real/airplane/a.jpg 1')} line 2 is"


def no_text(root: Path) -> str:
    (root / "sketch_train.txt").write_bytes(b"\xff\xfe\x00")
    return f"data.lists: cannot read {root}/sketch_train.txt"


def nothing_listed(root: Path) -> str:
    (root / "sketch_train.txt").write_text("")
    return f"data.lists: {root}/sketch_train.txt has no picture of the 45 classes"


def label_of_two_classes(root: Path) -> str:
    file = line(root, 4, "sketch/newt/a.jpg 0")
    return f"data.lists: {file} line 4 pairs class 'newt' with label 0, another line {DOMAINNET[0]!r} with 0"


def class_of_two_labels(root: Path) -> str:
    file = line(root, 45, f"sketch/{DOMAINNET[0]}/a.jpg 99", "sketch_test.txt")
    name = repr(DOMAINNET[0])
    return f"data.lists: {file} line 45 pairs class {name} with label 99, another line {name} with 0"


@pytest.mark.parametrize(
    "spoil",
    [
        no_folder,
        no_pictures,
        no_list,
        first_picture_gone,
        no_label,
        no_whole_number,
        no_class,
        blank,
        other_domain,
        no_text,
        nothing_listed,
        label_of_two_classes,
        class_of_two_labels,
    ],
)
def test_a_copy_that_is_not_as_published_is_refused(make, root: Path, spoil):
    complaint = spoil(root)
    with pytest.raises(ConfigError) as error:
        make("domainnet", path=str(root)).check()
    assert complaint in str(error.value)
    assert len(str(error.value).splitlines()) <= 2


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (
            {"domain": "photo"},
            "data.domain: got 'photo', should be 'clipart', 'infograph', 'painting', 'quickdraw'",
        ),
        ({"classes": "forty"}, "data.classes: got 'forty', should be 'all' or 'sentry40'"),
        ({"lists": "{domain}.txt"}, "data.lists: got '{domain}.txt', must hold {domain} and {split}"),
    ],
)
def test_wrong_values_are_refused_by_name(make, published: Path, values: dict, complaint: str):
    with pytest.raises(ConfigError) as error:
        make("domainnet", path=str(published), **values).check()
    assert complaint in str(error.value)
