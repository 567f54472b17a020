"""data=digit_scenes: pictures of several digits, drawn."""

from unittest import mock

import numpy as np
import pytest
import torch

from peft_vision.data.digit_scenes import COUNTS, Scenes, _digits_of_splits
from peft_vision.data.digits import read_digits
from peft_vision.data.pictures import Labelled
from peft_vision.testing import check_data


def test_masks_labels_and_numbers_say_the_same_of_scenes_that_are_always_the_same():
    digits = _digits_of_splits()["train"]
    scenes, again = (Scenes.drawn(digits, count, seed=0) for count in (40, 50))
    assert np.array_equal(scenes.pictures, again.pictures[:40])
    assert not np.array_equal(scenes.pictures, Scenes.drawn(digits, 40, seed=1).pictures)
    for picture, mask, counts in zip(scenes.pictures, scenes.masks, scenes.counts, strict=True):
        shown = [digit for digit in range(10) if counts[digit]]
        assert sorted(set(np.unique(mask)) - {0}) == [1 + digit for digit in shown]
        assert picture[mask > 0].mean() > picture[mask == 0].mean() + 20
        assert 1 <= counts.sum() <= 2
    assert {int(numbers.sum()) for numbers in scenes.counts} == {1, 2}
    assert scenes.numbers.tolist() == [[sum(row), sum(d * n for d, n in enumerate(row))] for row in scenes.counts]


def test_no_digit_is_in_two_splits():
    parts = _digits_of_splits().values()
    assert sum(map(len, parts)) == len(read_digits()) == len(torch.cat([part.indices for part in parts]).unique())


@pytest.fixture(scope="module")
def drawn_once():
    """Scenes of one seed and number, of which the same digits are drawn each time."""
    draw, known = Scenes.drawn, {}

    def drawn(digits: Labelled, count: int, *, seed: int) -> Scenes:
        if (count, seed) not in known:
            known[count, seed] = draw(digits, count, seed=seed)
        return known[count, seed]

    with mock.patch.object(Scenes, "drawn", drawn):
        yield


@pytest.mark.usefixtures("drawn_once")
@pytest.mark.parametrize(("labels_are", "classes"), [("masks", 11), ("several", 10), ("numbers", 2)])
def test_it_is_a_data_set_with_each_kind_of_labels(make, preprocessing, labels_are, classes):
    splits = make("digit_scenes", labels_are=labels_are).load(preprocessing)
    assert {split: len(images) for split, images in splits.parts().items()} == COUNTS
    assert (splits.labels_are, len(splits.classes)) == (labels_are, classes)
    check_data("digit_scenes", labels_are=labels_are)
