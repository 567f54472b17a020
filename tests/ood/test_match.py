import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ood_miniatures import painted, shown
from peft_vision.core.config import ConfigError
from peft_vision.data.arrays import Arrays
from peft_vision.data.parquet_rows import ParquetFile, ParquetRows
from peft_vision.data.pictures import Files, Labelled, labelled
from peft_vision.data.vtab.pictures import Derived
from peft_vision.ood.base import OOD, Shift
from peft_vision.ood.match import Matched, matched, refuse_seen
from shift_miniatures import make_ood

RUN = ("ant", "bee", "cow", "dog")


def ood(**overrides: object) -> OOD:
    return make_ood("image_folder", path="anywhere", **overrides)


def pictures(labels: Sequence[int]) -> Labelled:
    """Their colours tell the labels."""
    return labelled(Arrays(painted(labels, 4)), labels)


def match(classes: Sequence[str], labels: Sequence[int], **overrides: object) -> Matched:
    return matched(Shift(pictures(labels), tuple(classes)), ood(**overrides), RUN, where="ood.own")


def test_pictures_are_matched_by_the_name_of_their_class():
    found = match(["dog", "cow", "bee", "ant"], [0, 1, 2, 3, 0])
    assert found.labelled.labels.tolist() == [3, 2, 1, 0, 3]
    assert shown(found.labelled) == [0, 1, 2, 3, 0]
    assert (found.missing, found.dropped) == ((), ())
    assert found.predictable.tolist() == [True] * 4
    assert str(found) == "5 images"


def match_whole(classes: Sequence[str], labels: np.ndarray, **overrides: object) -> Matched:
    """Match pictures with several labels or numbers each."""
    shift = Shift(labelled(Arrays(painted([0] * len(labels), 4)), labels), tuple(classes))
    return matched(shift, ood(**overrides), RUN, where="ood.own")


def test_several_labels_are_matched_by_name_and_those_that_the_set_lacks_are_absent():
    labels = np.array([[1, 0], [0, 1], [1, 1]], np.uint8)
    found = match_whole(["dog", "bee"], labels)
    assert found.labelled.labels.tolist() == [[0, 0, 0, 1], [0, 1, 0, 0], [0, 1, 0, 1]]
    assert (found.missing, found.dropped) == (("ant", "cow"), ())
    assert found.predictable.all()
    assert match_whole(["hound", "bee"], labels, rename={"hound": "dog"}).labelled.labels.equal(found.labelled.labels)
    dropped = match_whole(["dog", "elk"], labels, extra="drop")
    assert dropped.labelled.labels[:, 3].tolist() == [1, 0, 1]
    assert dropped.dropped == ("elk",)


@pytest.mark.parametrize(
    ("classes", "labels", "overrides", "message"),
    [
        (["dog", "elk"], np.ones((2, 2), np.uint8), {}, "1 of its labels are unknown to the run: 'elk'; the run has"),
        (["elk"], np.ones((2, 1), np.uint8), {"extra": "drop"}, "1 of its labels are unknown to the run: 'elk'"),
        (["dog", "ant"], np.zeros((2, 2), np.uint8), {}, "none of its 2 pictures shows a label of the run, 'ant'"),
        (["dog"], np.ones((2, 1), np.uint8), {"missing": "error"}, "it has no label of 3 of the run's: 'ant', 'bee'"),
        (["dog"], np.ones((2, 1), np.uint8), {"missing": "mask"}, "should be allow or error: the run says something"),
        (RUN[::-1], np.ones((2, 4), np.float32), {}, "its classes are 'dog', 'cow', 'bee', ..., should be the run's"),
        (["dog", "wolf"], np.eye(2, dtype="u1"), {"rename": {"wolf": "dog"}}, "two classes of the set become 'dog'"),
    ],
)
def test_labels_and_targets_that_do_not_match_are_named(classes, labels, overrides, message):
    with pytest.raises(ConfigError, match=message):
        match_whole(classes, labels, **overrides)


def test_a_class_of_another_name_is_renamed():
    found = match(["Bos taurus", "ant"], [1, 0], rename={"Bos taurus": "cow"})
    assert found.labelled.labels.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("missing", "predictable", "told"),
    [
        ("allow", [True] * 4, "2 images; without 2 of the classes ('bee', 'cow')"),
        ("mask", [True, False, False, True], "2 images; without 2 of the classes ('bee', 'cow', never predicted)"),
    ],
)
def test_classes_that_the_set_lacks_can_be_predicted_or_not(missing: str, predictable: list[bool], told: str):
    found = match(["ant", "dog"], [0, 1], missing=missing)
    assert found.missing == ("bee", "cow")
    assert found.predictable.tolist() == predictable
    assert str(found) == told


def test_a_class_is_lacking_where_it_has_a_name_and_no_picture():
    assert match(["ant", "bee", "cow", "dog"], [0, 2, 3]).missing == ("bee",)


def test_a_set_that_must_have_all_classes_is_refused_without_them():
    with pytest.raises(ConfigError) as error:
        match(["ant", "dog"], [0, 1], missing="error")
    assert "ood.own: it has no image of 2 of the run's classes: 'bee', 'cow'\n" in str(error.value)
    assert "ood.own.missing=allow" in str(error.value)


def test_pictures_of_unknown_classes_are_left_out_on_request():
    found = match(["ant", "emu", "dog"], [1, 0, 1, 2], extra="drop")
    assert found.labelled.labels.tolist() == [0, 3]
    assert shown(found.labelled) == [0, 2]
    assert found.dropped == ("emu",)
    assert str(found).endswith("left out: 'emu', unknown to the run")


def test_unknown_classes_are_refused_by_name():
    with pytest.raises(ConfigError) as error:
        match(["ant", "emu", "fox", "gnu", "hen", "yak"], [0, 1, 2, 3, 4], extra="error")
    assert "ood.own: 4 of its classes are unknown to the run: 'emu', 'fox', 'gnu', ...\n" in str(error.value)
    assert "'+ood.own.rename={emu: a class of the run}' says what they are" in str(error.value)


def test_an_unknown_class_without_a_picture_does_no_harm():
    assert match(["ant", "emu"], [0], extra="error").dropped == ()


@pytest.mark.parametrize("extra", ["drop", "error"])
def test_label_spaces_without_a_common_class_are_refused_with_both(extra: str):
    with pytest.raises(ConfigError) as error:
        match(["Dog", "Cow"], [0, 1], extra=extra)
    assert str(error.value) == (
        "ood.own: none of its classes is one of the run's: 'Dog', 'Cow'; the run has 'ant', 'bee', 'cow', ...; "
        "did you mean dog?"
    )


def test_two_classes_cannot_take_one_name():
    with pytest.raises(ConfigError, match=r"ood.own.rename: two classes of the set become 'dog'"):
        match(["dog", "wolf"], [0, 1], rename={"wolf": "dog"})


def files(root: Path, *names: str) -> Labelled:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(root / name)
    return labelled(Files(root, list(names)), [0] * len(names))


def test_files_that_are_trained_on_are_refused(tmp_path: Path):
    seen = files(tmp_path, "train/cat/1.png", "train/cat/2.png")
    shift = files(tmp_path / "train", "cat/0.png", "cat/2.png")
    with pytest.raises(ConfigError) as error:
        refuse_seen(shift, [files(tmp_path / "other", "val/cat/2.png"), seen], where="ood.own")
    message = f"ood.own: 1 of its 2 pictures are among the training data, such as {tmp_path}/train/cat/2.png; "
    assert str(error.value).startswith(message)


def test_files_are_known_by_another_way_to_their_folder(tmp_path: Path):
    seen = files(tmp_path / "pictures", "cat/1.png")
    (tmp_path / "link").symlink_to(tmp_path / "pictures")
    shift = labelled(Files(tmp_path / "link", ["cat/1.png"]), [0])
    with pytest.raises(ConfigError, match="1 of its 1 pictures"):
        refuse_seen(shift, [seen], where="ood.own")


def test_files_elsewhere_are_new_even_of_the_same_name(tmp_path: Path):
    seen = files(tmp_path / "train", "cat/1.png")
    shutil.copytree(tmp_path / "train", tmp_path / "elsewhere")
    refuse_seen(labelled(Files(tmp_path / "elsewhere", ["cat/1.png"]), [0]), [seen], where="ood.own")


def test_arrays_are_known_by_their_pixels():
    seen = pictures([1, 2, 3])
    with pytest.raises(ConfigError, match=r"ood.own: 1 of its 2 pictures are .* such as image 1; "):
        refuse_seen(pictures([5, 3]), [seen], where="ood.own")
    refuse_seen(pictures([5, 6]), [seen], where="ood.own")


def test_only_the_chosen_pictures_of_an_array_count():
    whole = pictures([1, 2, 3, 4])
    first, last = (whole.subset(whole.labels < 3), whole.subset(whole.labels >= 3))
    refuse_seen(first, [last], where="ood.own")


def test_arrays_are_known_however_they_lie_in_memory():
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3), dtype=np.uint8)
    turned = np.ascontiguousarray(images.transpose(0, 3, 2, 1)).transpose(0, 3, 2, 1)
    with pytest.raises(ConfigError, match="3 of its 3 pictures"):
        refuse_seen(labelled(Arrays(turned), [0] * 3), [labelled(Arrays(images), [0] * 3)], where="ood.own")


def test_pictures_of_every_kind_are_compared(tmp_path: Path):
    """Training data may be parquet files, two splits in one, or made of files; a shift may be of those files."""
    shift, seen = files(tmp_path, "cat/1.png"), files(tmp_path, "cat/2.png", "cat/1.png")
    rows = labelled(ParquetRows([ParquetFile(tmp_path, "train.parquet", 9, (3,))], "image"), [0] * 3)
    refuse_seen(shift, [rows], where="ood.own")
    refuse_seen(shift, [rows.joined(pictures([4]))], where="ood.own")
    derived = labelled(Derived(seen.pictures, lambda image: image), [0, 0])
    for known in (rows.joined(seen), seen.joined(rows), pictures([4]).joined(seen), derived, seen.joined(seen)):
        with pytest.raises(ConfigError, match=f"1 of its 1 pictures are among the .* such as {tmp_path}/cat/1.png"):
            refuse_seen(shift, [known], where="ood.own")
    with pytest.raises(ConfigError, match=r"2 of its 3 .* training data, such as .*parquet row 0"):
        refuse_seen(rows, [rows.subset(torch.tensor([0, 2]))], where="ood.own")


def test_files_and_arrays_are_never_the_same(tmp_path: Path):
    refuse_seen(pictures([1]), [files(tmp_path, "cat/1.png")], where="ood.own")
    refuse_seen(files(tmp_path, "cat/1.png"), [pictures([1])], where="ood.own")
