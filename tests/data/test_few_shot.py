"""`data.shots`: k images of each class to train on, in every kind of data set."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from peft_vision.core.config import ConfigError, hashed_fields
from peft_vision.data.arrays import Arrays
from peft_vision.data.base import Data
from peft_vision.data.digits import Digits
from peft_vision.data.divide import few_shot
from peft_vision.data.draws import ranks
from peft_vision.data.pictures import Labelled, labelled
from peft_vision.data.splits import LabelledSets


def counts(part: Labelled) -> list[int]:
    return torch.bincount(part.labels).tolist()


def chosen(part: Labelled) -> set[int]:
    return set(part.indices.tolist())


@pytest.mark.parametrize(("shots", "validating"), [(1, 1), (2, 2), (3, 3), (4, 4), (8, 4), (16, 4)])
def test_each_class_trains_on_k_images_and_validates_on_four_others_at_most(make, shots: int, validating: int):
    parts = make("digits", shots=shots).parts()
    assert counts(parts["train"]) == [shots] * 10
    assert counts(parts["val"]) == [validating] * 10
    assert torch.equal(parts["test"].indices, make("digits").parts()["test"].indices)
    assert chosen(parts["train"]).isdisjoint(chosen(parts["val"]) | chosen(parts["test"]))


def test_fewer_shots_lie_within_more_of_the_same_seed(make):
    drawn = [make("digits", shots=shots, split_seed=5).parts() for shots in (1, 2, 4, 8, 16)]
    for fewer, more in pairwise(drawn):
        assert chosen(fewer["train"]) < chosen(more["train"])
        assert chosen(fewer["val"]) <= chosen(more["val"])
    assert chosen(drawn[2]["val"]) == chosen(drawn[4]["val"])


def test_another_split_seed_draws_others(make):
    first, second = (make("digits", shots=4, split_seed=seed).parts() for seed in (0, 1))
    for split in ("train", "val"):
        assert chosen(first[split]) != chosen(second[split])


def test_without_a_val_fraction_nothing_validates(make):
    parts = make("digits", shots=2, val_fraction=0).parts()
    assert list(parts) == ["train", "test"]
    assert chosen(parts["train"]) == chosen(make("digits", shots=2).parts()["train"])


@pytest.mark.parametrize("stage", ["final", "peek"])
def test_what_was_chosen_trains_on_k_images_too(make, stage: str):
    everything, parts = make("digits", shots=4).parts(), make("digits", shots=4, stage=stage).parts()
    assert torch.equal(parts["train"].indices, everything["train"].indices)
    assert torch.equal(parts["test"].indices, everything["test"].indices)
    assert list(parts) == (["train", "test"] if stage == "final" else ["train", "val", "test"])


def test_tuning_leaves_the_test_images_alone(make):
    everything, tuned = make("digits", shots=4).parts(), make("digits", shots=4, stage="tune").parts()
    assert list(tuned) == ["train", "val"]
    assert all(torch.equal(tuned[split].indices, everything[split].indices) for split in tuned)
    with pytest.raises(ConfigError, match=r"^data.stage: tune is for choosing by validation images"):
        make("digits", shots=4, stage="tune", val_fraction=0).check()


@pytest.fixture
def split_folder(folder: Path, picture) -> Path:
    """Six, three and two pictures of each of three classes for training, validation and test."""
    for c, name in enumerate(["bird", "cat", "dog"]):
        (folder / "val" / name).mkdir(parents=True)
        for i in range(3):
            picture(1000 + 10 * c + i).save(folder / "val" / name / f"{i}.png")
    return folder


def own(make, folder: Path, **overrides) -> Data:
    return make("image_folder", path=str(folder), **overrides)


@pytest.mark.parametrize("val_fraction", [0, 0.1])
def test_a_validation_split_of_the_data_sets_own_is_drawn_from(make, split_folder: Path, val_fraction: float):
    parts = own(make, split_folder, shots=2, val_fraction=val_fraction).parts()
    assert (counts(parts["train"]), counts(parts["val"]), counts(parts["test"])) == ([2] * 3, [2] * 3, [2] * 3)
    assert all("/val/" in f"/{parts['val'].pictures.paths[index]}" for index in parts["val"].indices)
    assert len(own(make, split_folder, shots=6, stage="final").parts()["train"]) == 18


def test_a_class_with_too_few_images_is_named_with_its_count(make, folder: Path):
    (folder / "train" / "cat" / "0.png").unlink()
    assert counts(own(make, folder, shots=2).parts()["train"]) == [2] * 3
    assert counts(own(make, folder, shots=5, val_fraction=0).parts()["train"]) == [5] * 3
    with pytest.raises(ConfigError) as error:
        own(make, folder, shots=3).check()
    assert str(error.value) == (
        f"data.shots: class 'cat' of {folder} has 5 training images, not 3 to train on and 3 to validate on\n"
        "set a smaller data.shots or data.val_fraction=0, which takes none to validate on"
    )
    with pytest.raises(ConfigError) as error:
        own(make, folder, shots=7, val_fraction=0).check()
    assert str(error.value) == (
        f"data.shots: class 'cat' of {folder} has 5 training images, not 7 to train on; 3 of 3 classes have too few\n"
        "set a smaller data.shots"
    )


def test_too_few_validation_images_of_the_data_sets_own_are_named_too(make, split_folder: Path):
    (split_folder / "val" / "dog" / "0.png").unlink()
    with pytest.raises(ConfigError, match=r"class 'dog' of .* has 2 validation images, not 3 to validate on\n"):
        own(make, split_folder, shots=3).check()


@pytest.mark.parametrize("gaps", [True, False])
def test_a_class_that_may_lack_training_images_is_passed_over(gaps: bool):
    part = labelled(Arrays(torch.zeros(6, 2, 2, 3, dtype=torch.uint8).numpy()), [0, 0, 0, 2, 2, 2])
    sets = LabelledSets("made up", part, None, part, ("a", "b", "c"), "", gaps=gaps)
    if gaps:
        train, val = few_shot(sets, shots=1, validate=True, seed=0)
        assert (counts(train), counts(val)) == ([1, 0, 1], [1, 0, 1])
    else:
        with pytest.raises(ConfigError, match=r"class 'b' of made up has 0 training images, not 1 to train on and 1"):
            few_shot(sets, shots=1, validate=True, seed=0)


def test_shots_and_a_train_size_are_one_too_many(make):
    with pytest.raises(ConfigError, match=r"^data: shots=4 and train_size=100 both say how many; one must be null$"):
        make("digits", shots=4, train_size=100)


@pytest.mark.parametrize("shots", [0, -1, 2.5, "few"])
def test_what_is_no_number_of_shots_is_refused(make, shots: object):
    with pytest.raises(ConfigError, match=r"^data.shots: got "):
        make("digits", shots=shots)


def test_a_run_without_shots_is_what_it_was_before_there_were_any():
    assert hashed_fields(Digits, {"shots": None, "split_seed": 0}) == {"split_seed": 0}
    assert hashed_fields(Digits, {"shots": 4}) == {"shots": 4}


def test_ranks_count_each_class_from_nought():
    labels = torch.tensor([2, 0, 2, 2, 0])
    places = ranks(labels, seed=1)
    assert sorted(places[labels == 0]) == [0, 1]
    assert sorted(places[labels == 2]) == [0, 1, 2]
