"""`data.stage`: settings are tuned without the test images, and what was chosen trains on all others."""

import pytest
import torch

from peft_vision.core.config import ConfigError, hashed_fields
from peft_vision.data.base import Data
from peft_vision.data.digits import Digits
from peft_vision.data.sequences import Joined


def counts(data: Data) -> dict[str, int]:
    return {split: len(part) for split, part in data.parts().items()}


def test_tuning_has_the_same_training_and_validation_images_and_no_test_images(make):
    everything, tuned = make("digits").parts(), make("digits", stage="tune").parts()
    assert list(tuned) == ["train", "val"]
    assert all(torch.equal(tuned[split].indices, everything[split].indices) for split in tuned)


def test_the_final_run_trains_on_what_was_trained_and_validated_on(make):
    everything, final = make("digits", train_size=100).parts(), make("digits", train_size=100, stage="final").parts()
    assert counts(make("digits", train_size=100, stage="final")) == {"train": 100, "test": 359}
    together = torch.cat([everything["train"].indices, everything["val"].indices])
    assert torch.equal(final["train"].indices.sort().values, together.sort().values)
    assert torch.equal(final["test"].indices, everything["test"].indices)


def test_peeking_has_the_test_images_for_validation_and_trains_on_all_others(make):
    final, peeking = make("digits", stage="final").parts(), make("digits", stage="peek").parts()
    assert list(peeking) == ["train", "val", "test"]
    assert torch.equal(peeking["train"].indices.sort().values, final["train"].indices.sort().values)
    assert torch.equal(peeking["val"].indices, final["test"].indices)
    assert torch.equal(peeking["test"].indices, final["test"].indices)


@pytest.mark.parametrize("in_memory", [True, False])
def test_peeking_reads_each_test_image_once(in_memory, make, folder, preprocessing, caplog):
    next(folder.glob("test/*/*")).write_bytes(b"no picture")
    options = {"path": str(folder), "workers": 0, "cache": in_memory, "on_corrupt": "skip"}
    splits = make("image_folder", **options, stage="peek").load(preprocessing)
    assert splits.skipped == 1
    assert "left out 1 corrupt images" in caplog.text
    assert splits.val is not splits.test
    assert len(splits.val) == len(splits.test) == len(make("image_folder", **options).load(preprocessing).test)
    whole = torch.arange(len(splits.test)).split(4)
    batches = [list(part.batches(whole, seed=None, workers=0)) for part in (splits.val, splits.test)]
    assert all(torch.equal(one[0], other[0]) for one, other in zip(*batches, strict=True))


@pytest.fixture
def split_folder(folder, picture):
    """With a validation split of its own, of a picture a class."""
    for c, name in enumerate(["bird", "cat", "dog"]):
        (folder / "val" / name).mkdir(parents=True)
        picture(1000 + c).save(folder / "val" / name / "0.png")
    return folder


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_validation_split_of_the_data_sets_own_is_trained_on_too(in_memory, make, split_folder, preprocessing):
    options = {"path": str(split_folder), "workers": 0, "cache": in_memory}
    everything = make("image_folder", **options).load(preprocessing)
    final = make("image_folder", **options, stage="final").load(preprocessing)
    assert counts(make("image_folder", **options, stage="tune")) == {"train": 18, "val": 3}
    assert final.val is None

    def pixels(images):
        return images.pixels[torch.arange(len(images))]

    assert torch.equal(pixels(final.train), torch.cat([pixels(everything.train), pixels(everything.val)]))
    assert torch.equal(final.train.labels, torch.cat([everything.train.labels, everything.val.labels]))
    assert len(final.test) == len(everything.test)


def test_joined_pictures_are_told_apart_and_named(make, split_folder):
    part = make("image_folder", path=str(split_folder), stage="final").parts()["train"]
    assert isinstance(part.pictures, Joined)
    assert part.pictures.name(18).endswith("val/bird/0.png")
    shuffled = torch.tensor([20, 0, 1, 19, 18, 5])
    assert b"".join(part.pictures.contents(shuffled)) == b"".join(
        b"".join(part.pictures.contents(index[None])) for index in shuffled
    )
    assert len(list(part.pictures.identify(shuffled))) == 6
    assert part.subset(shuffled).digest() != part.digest()
    assert part.subset(torch.tensor([], dtype=torch.int64)).digest()


def test_a_corrupt_picture_is_found_in_either_part(make, split_folder, preprocessing):
    (split_folder / "val" / "cat" / "0.png").write_bytes(b"torn")
    with pytest.raises(ConfigError, match=r"cannot read .*val/cat/0.png"):
        make("image_folder", path=str(split_folder), stage="final").load(preprocessing)


def test_a_corrupt_test_picture_is_not_met_while_settings_are_tuned(make, split_folder, preprocessing):
    (split_folder / "test" / "cat" / "0.png").write_bytes(b"torn")
    assert make("image_folder", path=str(split_folder), stage="tune").load(preprocessing).test is None


def test_tuning_without_validation_images_is_refused(make):
    with pytest.raises(ConfigError, match=r"^data.stage: tune is for choosing by validation images; set data.val_frac"):
        make("digits", stage="tune", val_fraction=0).check()


def test_a_run_of_all_stages_is_what_it_was_before_there_were_any():
    assert hashed_fields(Digits, {"stage": "all", "split_seed": 0}) == {"split_seed": 0}
    assert hashed_fields(Digits, {"stage": "tune"}) == {"stage": "tune"}
