"""Parts that are drawn of pictures with several labels or with numbers have the labels of the whole."""

import numpy as np
import pytest
import torch

from peft_vision.core.config import ConfigError
from peft_vision.data import divide
from peft_vision.data.arrays import Arrays
from peft_vision.data.pictures import Labelled, labelled
from peft_vision.data.splits import LabelledSets
from peft_vision.data.strata import draw_part, most_to_draw

SHARES = np.array([0.5, 0.3, 0.1, 0.02, 0.004])


def pictures(count: int) -> Arrays:
    return Arrays(np.zeros((count, 1, 1, 3), dtype=np.uint8))


def several(count: int = 1000, seed: int = 0) -> Labelled:
    """Pictures with labels of these shares, drawn one by one; some have none, and one label comes with another."""
    marks = np.random.default_rng(seed).random((count, len(SHARES))) < SHARES
    marks[:, 2] &= marks[:, 0]
    return labelled(pictures(count), marks.astype(np.uint8))


def numbers(count: int = 400, targets: int = 1) -> Labelled:
    values = np.random.default_rng(0).lognormal(size=(count, targets))
    return labelled(pictures(count), values.astype(np.float32))


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_every_label_has_its_share_to_the_picture(share: float, seed: int):
    whole = several(seed=seed)
    part, rest = draw_part(whole, round(share * len(whole)), seed=seed)
    assert (len(part), len(rest)) == (share * 1000, 1000 - share * 1000)
    assert sorted([*part.indices.tolist(), *rest.indices.tolist()]) == list(range(1000))
    wanted = share * whole.labels.sum(dim=0, dtype=torch.float64)
    assert (part.labels.sum(dim=0) - wanted).abs().max() <= 1.01


def test_seed_and_labels_alone_decide():
    whole = several()
    first, again, other = (draw_part(whole, 200, seed=seed)[0].indices for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(set(first.tolist()) & set(other.tolist())) < 100  # of pictures with equal labels any may be drawn


def test_a_rare_label_stays_in_the_larger_part_unless_it_is_wanted():
    marks = np.zeros((100, 2), dtype=np.uint8)
    marks[:, 0], marks[7, 1] = 1, 1
    whole = labelled(pictures(100), marks)
    part, _ = draw_part(whole, 20, seed=0, leave=1)
    assert part.labels.sum(dim=0).tolist() == [20, 0]
    part, _ = draw_part(whole, 20, seed=0, least=1)
    assert part.labels.sum(dim=0).tolist() == [20, 1]


def test_pictures_without_labels_fill_what_is_left():
    whole = labelled(pictures(10), np.eye(10, 4, dtype=np.uint8))
    part, rest = draw_part(whole, 5, seed=0)
    assert len(part) == len(rest) == 5
    assert {int(row.sum()) for row in rest.labels} <= {0, 1}
    for count in (0, 10):
        assert len(draw_part(whole, count, seed=0)[0]) == count
    with pytest.raises(ValueError, match="cannot draw 11 images"):
        draw_part(whole, 11, seed=0)


def test_a_part_has_its_share_of_every_tenth_of_a_number():
    whole = numbers()
    part, rest = draw_part(whole, 80, seed=0)
    edges = np.quantile(whole.labels.numpy(), np.arange(1, 10) / 10)
    for drawn, count in ((part, 8), (rest, 32)):
        tenths = np.searchsorted(edges, drawn.labels.numpy()[:, 0], side="right")
        assert np.bincount(tenths).tolist() == [count] * 10
    larger, _ = draw_part(whole, 160, seed=0)
    assert set(part.indices.tolist()) < set(larger.indices.tolist())


def test_a_part_has_about_its_share_of_every_tenth_of_each_of_several_numbers():
    whole = numbers(targets=2)
    part, _ = draw_part(whole, 80, seed=0)
    for target in range(2):
        edges = np.quantile(whole.labels[:, target].numpy(), np.arange(1, 10) / 10)
        tenths = np.searchsorted(edges, part.labels[:, target].numpy(), side="right")
        assert np.abs(np.bincount(tenths) - 8).max() <= 1


def test_equal_numbers_are_one_stratum():
    whole = labelled(pictures(50), np.array([[0.0]] * 40 + [[1.0]] * 10, dtype=np.float32))
    part, _ = draw_part(whole, 10, seed=0)
    assert part.labels.sum() == 2
    constant = labelled(pictures(8), np.ones((8, 1), dtype=np.float32))
    assert len(draw_part(constant, 3, seed=0)[0]) == 3


@pytest.mark.parametrize("whole", [several(40), numbers(40)], ids=["several", "numbers"])
def test_parts_are_divided_like_those_of_classes(whole: Labelled):
    train, test = divide.test_part(whole, 0.25)
    assert (len(train), len(test), most_to_draw(whole)) == (30, 10, 39)
    sets = LabelledSets(
        name="x", train=train, val=None, test=test, classes=("a",) * whole.labels.shape[1], remark="", gaps=True
    )
    given = {"shots": None, "val_fraction": 0.2, "split_seed": 0, "stage": "all"}
    parts = divide.divided(sets, train_size=20, **given)
    assert {split: len(part) for split, part in parts.items()} == {"train": 16, "val": 4, "test": 10}
    with pytest.raises(ConfigError, match=r"data.train_size: got 31; x has 30 labelled images"):
        divide.divided(sets, train_size=31, **given)
    with pytest.raises(ConfigError, match="is 0; 1 to 39 would leave an image to train on"):
        divide.test_part(whole, 0.001)
    with pytest.raises(ConfigError, match="would leave an image to train on"):
        divide.divided(sets, train_size=None, **{**given, "val_fraction": 0.001})
