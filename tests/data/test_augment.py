import random

import numpy as np
import pytest
import torch

from peft_vision.data.augment import augmented, flip_crop, rand_augment

IMAGES = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("augment", ["flip_crop", "rand_augment"])
def test_an_image_is_augmented_by_seed_and_index_alone(augment: str):
    together = augmented(IMAGES, torch.arange(64), augment=augment, seed=1)
    order = torch.randperm(64)
    alone = torch.cat([augmented(IMAGES[i : i + 1], torch.tensor([i]), augment=augment, seed=1) for i in order])
    assert torch.equal(alone, together[order])
    assert not torch.equal(together, augmented(IMAGES, torch.arange(64), augment=augment, seed=2))
    assert together.dtype == torch.uint8


@pytest.mark.parametrize("augment", ["flip_crop", "rand_augment"])
def test_no_global_random_state_is_touched_or_read(augment: str):
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first = augmented(IMAGES, torch.arange(64), augment=augment, seed=1)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert random.getstate() == states[2]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        assert torch.equal(augmented(IMAGES, torch.arange(64), augment=augment, seed=1), first)


def test_flip_crop_is_a_window_of_the_reflected_image_or_its_mirror():
    out = flip_crop(IMAGES, torch.arange(64), seed=0)
    flipped = 0
    for image, window in zip(IMAGES.numpy(), out, strict=True):
        padded = torch.from_numpy(np.pad(image, ((0, 0), (4, 4), (4, 4)), mode="reflect"))
        windows = padded.unfold(1, 32, 1).unfold(2, 32, 1).permute(1, 2, 0, 3, 4)
        kept = (windows == window).flatten(2).all(-1).any()
        mirrored = (windows == window.flip(-1)).flatten(2).all(-1).any()
        assert kept or mirrored
        flipped += int(mirrored)
    assert 16 < flipped < 48


def test_flip_crop_shifts_by_every_number_of_pixels_that_there_is_room_for():
    ramp = torch.stack([torch.arange(32).repeat(32, 1), torch.arange(32).repeat(32, 1).T, torch.zeros(32, 32)])
    out = flip_crop(ramp.to(torch.uint8).expand(512, 3, 32, 32), torch.arange(512), seed=0)
    rows, columns = out[:, 1, 16, 16].int() - 16, out[:, 0, 16, 16].int()
    assert set(rows.tolist()) == set(range(-4, 5))
    assert set(columns.tolist()) == set(range(11, 21))  # 12 to 20, and their mirrors 11 to 19


@pytest.mark.parametrize(("height", "width"), [(32, 16), (8, 40)])
def test_flip_crop_has_margins_of_an_eighth_of_each_side(height: int, width: int):
    rows = torch.arange(height).view(-1, 1).expand(height, width)
    columns = torch.arange(width).expand(height, width)
    ramp = torch.stack([rows, columns, columns]).to(torch.uint8).expand(512, 3, height, width)
    out = flip_crop(ramp, torch.arange(512), seed=0)
    assert out.shape == ramp.shape
    middle = out[:, :2, height // 2, width // 2].int()
    assert set((middle[:, 0] - height // 2).tolist()) == set(range(-height // 8, height // 8 + 1))
    least = width // 2 - 1 - width // 8  # where it is mirrored
    assert set(middle[:, 1].tolist()) == set(range(least, width // 2 + width // 8 + 1))


def test_rand_augment_draws_operations_of_its_own_for_each_image():
    same = IMAGES[:1].expand(32, 3, 32, 32)
    assert len(rand_augment(same, torch.arange(32), seed=0).unique(dim=0)) > 16


def test_every_augmentation_keeps_height_and_width():
    upright = IMAGES[:, :, :, :20]
    for augment in ("none", "flip_crop", "rand_augment"):
        assert augmented(upright, torch.arange(64), augment=augment, seed=1).shape == upright.shape


def test_the_input_is_left_as_it_is():
    before = IMAGES.clone()
    augmented(IMAGES, torch.arange(64), augment="rand_augment", seed=0)
    assert torch.equal(IMAGES, before)


def test_no_image_stays_no_image():
    assert augmented(IMAGES[:0], torch.arange(0), augment="rand_augment", seed=0).shape == (0, 3, 32, 32)
