import pytest
import torch

from peft_vision.data.draws import draw, most_drawable

LABELS = torch.tensor([0] * 50 + [1] * 30 + [2] * 13 + [3] * 7)[torch.randperm(100, generator=torch.manual_seed(0))]


@pytest.mark.parametrize("count", [0, 1, 10, 33, 50, 99, 100])
def test_a_draw_has_the_exact_size_and_splits_all_images_in_two(count: int):
    drawn, rest = draw(LABELS, count, seed=3, least=0, leave=0)
    assert len(drawn) == count
    assert torch.equal(torch.cat([drawn, rest]).sort().values, torch.arange(100))


@pytest.mark.parametrize("count", [10, 33, 50, 99])
def test_every_class_keeps_its_share_to_within_one_image(count: int):
    drawn, _ = draw(LABELS, count, seed=3, least=0, leave=0)
    wanted = torch.bincount(LABELS) * count / 100
    assert ((torch.bincount(LABELS[drawn], minlength=4) - wanted).abs() < 1).all()


def test_shares_without_remainder_are_exact():
    drawn, _ = draw(LABELS, 100 // 2, seed=0, least=0, leave=0)
    assert torch.bincount(LABELS[drawn])[:2].tolist() == [25, 15]


def test_the_seed_alone_decides_the_draw():
    assert torch.equal(draw(LABELS, 20, seed=1, least=0, leave=0)[0], draw(LABELS, 20, seed=1, least=0, leave=0)[0])
    assert not torch.equal(draw(LABELS, 20, seed=1, least=0, leave=0)[0], draw(LABELS, 20, seed=2, least=0, leave=0)[0])


def test_every_class_is_drawn_when_there_are_as_many_images_as_classes():
    drawn, _ = draw(LABELS, 4, seed=0, least=1, leave=0)
    assert LABELS[drawn].sort().values.tolist() == [0, 1, 2, 3]


def test_a_class_of_one_image_keeps_it():
    labels = torch.tensor([0, 0, 0, 0, 1])
    drawn, rest = draw(labels, most_drawable(labels, leave=1), seed=0, least=0, leave=1)
    assert labels[rest].sort().values.tolist() == [0, 1]
    assert len(drawn) == 3


def test_balanced_classes_give_few_shot_sets():
    labels = torch.arange(20).repeat_interleave(50)
    drawn, _ = draw(labels, 100, seed=0, least=1, leave=0)
    assert torch.bincount(labels[drawn]).tolist() == [5] * 20


def test_a_smaller_set_lies_within_a_larger_one_of_the_same_seed():
    labels = torch.arange(20).repeat_interleave(50)
    small, large = (set(draw(labels, n, seed=7, least=1, leave=0)[0].tolist()) for n in (100, 200))
    assert small < large


def test_the_odd_image_does_not_always_go_to_the_first_classes():
    labels = torch.arange(20).repeat_interleave(5)
    fortunate = {
        tuple(torch.bincount(labels[draw(labels, 25, seed=seed, least=1, leave=0)[0]]).tolist()) for seed in range(5)
    }
    assert len(fortunate) == 5


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="96 are possible"):
        draw(LABELS, 97, seed=0, least=0, leave=1)
