import multiprocessing
import os
import signal

import pytest
import torch

from peft_vision.core.config import ConfigError
from peft_vision.data.base import Data
from peft_vision.data.images import Undecoded, usable
from peft_vision.data.splits import Splits
from test_bad_input import no_file_larger_than

AUGMENTS = ["none", "crop_flip", "flip_crop", "rand_augment"]


def loaded(make, folder, preprocessing, **overrides) -> Splits:
    data: Data = make("image_folder", path=str(folder), val_fraction=0, resize="crop", **overrides)
    return data.load(preprocessing)


def fetched(images, batches, *, seed, workers) -> list[torch.Tensor]:
    return [pixels for pixels, _ in images.batches(batches, seed=seed, workers=workers)]


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("seed", [None, 3])
def test_memory_disk_and_processes_give_the_same_bytes(make, folder, preprocessing, augment, seed):
    batches = torch.randperm(18).split(5)
    cached, uncached = (
        loaded(make, folder, preprocessing, augment=augment, cache=cache).train for cache in (True, False)
    )
    expected = fetched(cached, batches, seed=seed, workers=0)
    for images, workers in [(cached, 2), (uncached, 0), (uncached, 2)]:
        got = fetched(images, batches, seed=seed, workers=workers)
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert not isinstance(cached.pixels, Undecoded)
    assert isinstance(uncached.pixels, Undecoded)


@pytest.mark.parametrize("augment", AUGMENTS)
def test_the_make_up_of_a_batch_does_not_change_an_image(make, folder, preprocessing, augment):
    train = loaded(make, folder, preprocessing, augment=augment).train
    (whole,) = fetched(train, [torch.arange(18)], seed=1, workers=0)
    order = torch.randperm(18)
    pieces = torch.cat(fetched(train, order.split(4), seed=1, workers=0))
    assert torch.equal(pieces, whole[order])


@pytest.mark.parametrize("augment", AUGMENTS[1:])
def test_evaluation_sees_the_images_unaugmented(make, folder, preprocessing, augment):
    plain, augmented = (loaded(make, folder, preprocessing, augment=augment).train for augment in ("none", augment))
    batch = [torch.arange(18)]
    assert torch.equal(*(fetched(images, batch, seed=None, workers=0)[0] for images in (plain, augmented)))
    assert not torch.equal(*(fetched(images, batch, seed=1, workers=0)[0] for images in (plain, augmented)))


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
def test_labels_come_along_and_a_batch_may_be_empty(make, folder, preprocessing, cache, workers):
    train = loaded(make, folder, preprocessing, augment="rand_augment", cache=cache).train
    batches = [torch.tensor([17, 0, 6]), torch.arange(0)]
    (_, labels), (images, none) = train.batches(batches, seed=0, workers=workers)
    assert labels.tolist() == [2, 0, 1]
    assert images.shape == (0, 3, 16, 16)
    assert images.dtype == torch.uint8
    assert none.shape == (0,)


@pytest.mark.parametrize("workers", [0, 2])
def test_fetching_leaves_the_global_random_state_alone(make, folder, preprocessing, workers):
    train = loaded(make, folder, preprocessing, augment="rand_augment", cache=False).train
    before = torch.get_rng_state()
    fetched(train, torch.arange(18).split(6), seed=0, workers=workers)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(usable(2) < 2, reason="one CPU: no loader processes")
def test_loader_processes_end_with_the_batches(make, folder, preprocessing):
    train = loaded(make, folder, preprocessing, cache=False).train
    batches = train.batches(torch.arange(18).split(2), seed=0, workers=2)
    next(batches)
    assert multiprocessing.active_children()
    batches.close()  # as when training raises midway
    assert not multiprocessing.active_children()


def test_too_little_shared_memory_makes_batches_slow_and_loses_none(make, folder, preprocessing):
    train = loaded(make, folder, preprocessing, cache=False).train
    batches = [*torch.arange(18).split(5), torch.arange(0)]
    expected = fetched(train, batches, seed=None, workers=0)
    with no_file_larger_than(100):
        got = fetched(train, batches, seed=None, workers=2)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.skipif(usable(2) < 2, reason="one CPU: no loader processes")
def test_a_loader_process_that_is_killed_is_said(make, folder, preprocessing, monkeypatch):
    train = loaded(make, folder, preprocessing, cache=False).train
    monkeypatch.setattr(Undecoded, "__getitem__", lambda self, positions: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ConfigError, match=r"^data.workers: a process .* was killed.*\n.* with data.workers below 2; 0"):
        fetched(train, torch.arange(18).split(5), seed=None, workers=2)


def test_no_more_processes_than_cpus():
    assert usable(0) == 0
    assert 1 <= usable(10_000) < 10_000
