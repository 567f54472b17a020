import re
from pathlib import Path

import pytest
import torch

from peft_vision.core.config import CONFIG_DIR, ConfigError, hashed_fields
from peft_vision.data.base import Data
from peft_vision.data.draws import draw
from peft_vision.data.image_folder import ImageFolder
from peft_vision.data.torchvision_sets import TorchvisionData

OPTIONS = sorted(path.stem for path in (CONFIG_DIR / "data").glob("*.yaml"))


def test_the_options_are_found():
    assert {"cifar100", "digits", "image_folder"} < set(OPTIONS)
    assert len(OPTIONS) >= 12


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_builds(make, option: str):
    assert isinstance(make(option, **({"path": "x"} if option in ("image_folder", "numpy") else {})), Data)


@pytest.mark.parametrize("option", ["digits", "svhn"])
def test_digits_are_not_mirrored_unasked(make, option: str):
    assert make(option).augment == "none"


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"val_fraction": 1.0}, "data.val_fraction: got 1.0"),
        ({"val_fraction": -0.1}, "data.val_fraction"),
        ({"train_size": 0}, "data.train_size: got 0"),
        ({"test_size": 0}, "data.test_size: got 0"),
        ({"train_size": "many"}, "data.train_size"),
        ({"augment": "flip"}, "data.augment: got 'flip'.*flip_crop"),
        ({"resize": "stretch"}, "data.resize"),
        ({"workers": -1}, "data.workers"),
        ({"on_corrupt": "ignore"}, "data.on_corrupt"),
        ({"trainsize": 3}, "did you mean train_size"),
    ],
)
def test_wrong_values_are_refused_by_name(make, values: dict, complaint: str):
    with pytest.raises(ConfigError, match=complaint):
        make("digits", **values)


@pytest.mark.parametrize("train_size", [9, 1439, 10**6])
def test_a_train_size_out_of_reach_is_refused_before_anything_loads(make, train_size: int):
    with pytest.raises(ConfigError, match=f"data.train_size: got {train_size}; digits has 10 classes and 1438"):
        make("digits", train_size=train_size).check()


@pytest.mark.parametrize(("train_size", "val_fraction"), [(10, 0.5), (20, 0.9), (12, 0.01)])
def test_a_validation_part_that_cannot_be_is_refused(make, train_size: int, val_fraction: float):
    with pytest.raises(ConfigError, match=r"data.val_fraction: got .* labelled images"):
        make("digits", train_size=train_size, val_fraction=val_fraction).check()


def test_digits_are_the_real_ones_scaled_to_bytes(make):
    from sklearn.datasets import load_digits

    sets = make("digits").open()
    digits = load_digits()
    for part in (sets.train, sets.test):
        grey = part.pictures.images[part.indices]
        assert abs(grey[..., 0].astype(float) * 16 / 255 - digits.images[part.indices]).max() < 0.05
        assert part.labels.tolist() == digits.target[part.indices].tolist()
        assert (grey.min(), grey.max()) == (0, 255)


def test_sizes_are_exact_and_parts_disjoint(make, preprocessing):
    sets, parts = make("digits", train_size=100, val_fraction=0.2)._divide()
    assert {split: len(part) for split, part in parts.items()} == {"train": 80, "val": 20, "test": 359}
    assert torch.cat([part.indices for part in parts.values()]).unique().numel() == 80 + 20 + 359
    assert torch.bincount(parts["train"].labels).tolist() == [8] * 10
    assert sets.classes == tuple("0123456789")


def test_at_most_so_many_test_images_are_scored_in_the_shares_of_their_labels(make, preprocessing):
    whole = make("digits").parts()
    for stage in ("all", "final", "peek"):
        part = make("digits", test_size=50, split_seed=3, stage=stage).parts()["test"]
        assert torch.bincount(part.labels).tolist() == [5] * 10
        assert torch.isin(part.indices, whole["test"].indices).all()
    assert torch.equal(make("digits", test_size=50).parts()["test"].indices, part.indices)
    assert len(make("digits", test_size=50, stage="peek").parts()["val"]) == 50
    assert torch.equal(make("digits", test_size=50).parts()["train"].indices, whole["train"].indices)
    assert (
        "50 of 359 test images are scored (data.test_size)" in make("digits", test_size=50).load(preprocessing).source
    )
    for size in (359, 10**6):
        splits = make("digits", test_size=size).load(preprocessing)
        assert (len(splits.test), splits.source) == (359, make("digits").load(preprocessing).source)


def test_the_split_seed_moves_training_images_but_not_the_test_images(make):
    first, second = (make("digits", split_seed=seed)._divide()[1] for seed in (0, 1))
    assert torch.equal(first["test"].indices, second["test"].indices)
    assert not torch.equal(first["val"].indices, second["val"].indices)


@pytest.mark.parametrize("split_seed", [0, 7])
def test_the_images_that_a_smaller_run_would_use_are_not_those_that_validate(make, split_seed: int):
    """Drawn by one seed, the validation part of a run would be the very images that a smaller run trains on."""
    few = make("digits", train_size=360, val_fraction=0, split_seed=split_seed)._divide()[1]["train"].indices
    val = make("digits", train_size=None, val_fraction=0.25, split_seed=split_seed)._divide()[1]["val"].indices
    assert len(val) == 360
    assert torch.isin(val, few).float().mean() == pytest.approx(0.25, abs=0.1)


def test_the_test_part_of_a_set_without_one_is_the_draw_of_seed_0(make):
    """As ever: by another seed, results of two versions would not be of the same images."""
    from sklearn.datasets import load_digits

    labels = torch.as_tensor(load_digits().target)
    drawn, _ = draw(labels, round(0.2 * len(labels)), seed=0, least=0, leave=1)
    assert make("digits").open().test.indices.tolist() == drawn.tolist()


def test_without_a_val_fraction_there_is_no_validation_part(make, preprocessing):
    splits = make("digits", val_fraction=0).load(preprocessing)
    assert splits.val is None
    assert (len(splits.train), len(splits.test)) == (1438, 359)
    assert splits.source.startswith("digits: 1438 train + 359 test images of 10 classes")
    assert "not an official split" in splits.source


def test_the_fingerprint_tells_content_and_division_but_not_how_they_are_loaded(make, preprocessing):
    def print_of(**overrides: object) -> str:
        return make("digits", **overrides).load(preprocessing).fingerprint

    base = print_of()
    assert re.fullmatch("[0-9a-f]{64}", base)
    assert base == print_of(cache=False, workers=0, memory_gib=0.5)
    assert base == print_of(augment="rand_augment")  # what is held, not what is made of it
    prints = [base, print_of(split_seed=1), print_of(train_size=500), print_of(val_fraction=0.2)]
    assert len(set(prints)) == 4


def test_a_changed_file_changes_the_fingerprint_and_a_moved_folder_does_not(make, folder: Path, preprocessing, picture):
    def print_of(path: Path) -> str:
        return make("image_folder", path=str(path)).load(preprocessing).fingerprint

    before = print_of(folder)
    moved = folder.rename(folder.with_name("moved"))
    assert print_of(moved) == before
    picture(0, width=60).save(moved / "train" / "cat" / "0.png")
    assert print_of(moved) != before


def test_splits_are_cached_in_order_while_the_budget_lasts(make, folder: Path, preprocessing):
    gib = 18 * 3 * 16 * 16 / 2**30
    splits = make("image_folder", path=str(folder), memory_gib=gib, val_fraction=0).load(preprocessing)
    assert isinstance(splits.train.pixels, torch.Tensor)
    assert not isinstance(splits.test.pixels, torch.Tensor)


def test_what_cannot_change_a_result_is_no_part_of_the_identity(make):
    values = dict.fromkeys(("root", "name", "cache", "memory_gib", "workers", "augment", "download"))
    assert set(hashed_fields(TorchvisionData, values)) == {"name", "augment"}
    assert set(hashed_fields(ImageFolder, {"path": "x", "workers": 1})) == {"path"}
