"""scale_crop_flip: windows of pictures at 0.5 to 2 times their size, and of their masks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mask_miniatures import CLASSES, VOID, masked
from peft_vision.data.augment import scale_crop_flip
from peft_vision.data.device_images import DeviceImages, device_bytes
from peft_vision.models.observations import Observed, Views, labels_of_views


def ramp(height: int, width: int) -> np.ndarray:
    """Rows in the first channel, columns in the second, and rows again in the mask, which is the last."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([rows, columns, rows])


def windows(count: int, *, seed: int = 0, whole: np.ndarray | None = None, size=(60, 40)) -> np.ndarray:
    wholes = [ramp(100, 80) if whole is None else whole] * count
    return scale_crop_flip(wholes, torch.arange(count), size=size, seed=seed, masked=True).numpy()


def test_the_mask_is_moved_as_its_picture():
    inside = 0
    for rows, columns, mask in windows(200).astype(int):
        shown = mask != 255
        inside += shown.mean() / 200
        assert np.abs(rows - mask)[shown].max() <= 2  # a smaller scale blends and skips up to two rows
        assert np.unique(rows[~shown]).size <= 1
        assert not shown.any() or (np.diff(columns[shown.any(axis=1)][:, shown.any(axis=0)], axis=0) == 0).all()
    assert 0.8 < inside < 1


def test_a_mask_has_no_class_that_lies_between_two_others():
    whole = ramp(60, 60)
    whole[2] = np.where((whole[0] // 5 + whole[1] // 5) % 2, 200, 0)
    assert set(np.unique(windows(100, whole=whole)[:, 2])) == {0, 200, 255}


def test_scales_are_drawn_evenly_and_half_are_mirrored():
    scales, mirrored = [], []
    for rows, columns, mask in windows(3000, whole=ramp(250, 250), size=(100, 100)).astype(int):
        assert (mask != 255).all()  # even at half the size it fills the window
        scales.append(99 / (rows[-1, 0] - rows[0, 0]))
        mirrored.append(columns[0, 0] > columns[0, -1])
    counts, _ = np.histogram(scales, bins=[0.47, 0.875, 1.25, 1.625, 2.1])
    assert counts / 3000 == pytest.approx([0.25] * 4, abs=0.04)
    assert np.mean(mirrored) == pytest.approx(0.5, abs=0.03)


def test_a_small_picture_lies_anywhere_amid_its_mean_colour():
    tops = set()
    whole = np.stack([np.full((20, 20), 80), np.full((20, 20), 81), np.full((20, 20), 3)]).astype(np.uint8)
    for window in windows(300, whole=whole, size=(48, 48)):
        shown = window[2] != 255
        assert (window[0] == 80).all()
        assert (window[1] == 81).all()
        assert set(window[2][shown]) == {3}
        sides = shown.any(axis=1).sum(), shown.any(axis=0).sum()
        assert 10 <= min(sides) <= max(sides) <= 40
        assert shown.sum() == sides[0] * sides[1]
        tops.add(int(shown.any(axis=1).argmax()))
    assert {0, 1, 20} <= tops


def test_seed_and_index_alone_decide():
    together = windows(40, seed=3)
    order = torch.randperm(40)
    assert np.array_equal(
        scale_crop_flip([ramp(100, 80)] * 40, order, size=(60, 40), seed=3, masked=True).numpy(), together[order]
    )
    assert not np.array_equal(windows(40, seed=4), together)
    assert scale_crop_flip([], torch.arange(0), size=4, seed=0, masked=False).shape == (0, 3, 4, 4)


@pytest.fixture
def train(make, preprocessing, tmp_path: Path):
    root = masked(tmp_path, {"train": 9, "test": 1}, sides=(40, 30))
    given = {"path": str(root), "classes": CLASSES, "ignore": [VOID], "val_fraction": 0}
    nearest = replace(preprocessing, interpolation="nearest")
    return lambda **overrides: make("masks", **given, **overrides).load(nearest).train


@pytest.mark.parametrize(
    "given",
    [{"augment": "flip_crop"}, {"augment": "flip_crop", "resize": "crop"}, {"augment": "crop_flip", "resize": "crop"}],
    ids=str,
)
def test_a_batch_shows_each_class_where_its_mask_has_it_and_on_a_device_the_same(train, given):
    images = train(**given)
    on_device = DeviceImages(images, torch.device("cpu"))
    batches = torch.arange(9).split(4)
    assert device_bytes(images) > 0
    for seed in (None, 0, 1):
        pairs = zip(*(one.batches(batches, seed=seed, workers=0) for one in (images, on_device)), strict=True)
        for (shown, masks), (same, as_well) in pairs:
            assert torch.equal(shown[:, 0], torch.where(masks == 255, VOID, masks) * 25)
            assert torch.equal(shown, same)
            assert torch.equal(masks, as_well)
    assert torch.equal(on_device.labels, images.labels)
    assert len(on_device) == 9


def test_scaled_windows_are_made_on_the_processor_alone(train):
    for resize in ("squash", "crop"):
        images = train(augment="scale_crop_flip", resize=resize)
        assert device_bytes(images) is None
        ((shown, masks),) = images.batches([torch.arange(9)], seed=0, workers=0)
        assert shown.shape == (9, 3, 16, 16)
        fault, mirrored = (
            (shown[:, 0] - 25.0 * classes)[masks != 255].abs().mean() for classes in (masks, masks.flip(-1) % 255)
        )
        assert fault < mirrored / 2  # not 0, since the edges of patches are blended
        assert torch.equal(images.unaugmented().labels, images.labels)


def test_pictures_of_classes_are_scaled_too(make, folder: Path, preprocessing):
    cached, decoded = (
        make("image_folder", path=str(folder), augment="scale_crop_flip", cache=cache).load(preprocessing).train
        for cache in (True, False)
    )
    batches = [torch.arange(len(cached))]
    ((one, _),), ((other, _),) = (images.batches(batches, seed=0, workers=0) for images in (cached, decoded))
    assert torch.equal(one, other)
    assert not torch.equal(one, cached.pixels)


@pytest.mark.parametrize("augment", ["flip_crop", "scale_crop_flip"])
@pytest.mark.parametrize("views", [1, 3])
def test_stored_views_have_the_masks_that_they_show(train, augment: str, views: int):
    images = train(augment=augment)
    rows = {"features": torch.arange(9 * views).float()[:, None]}
    observed = Observed(images.labels, rows, labels_of_views(images, views))
    computed = Views(images, views)
    assert (len(computed), images.handed_out) == (9, 0)
    batches = torch.arange(9).split(4)
    for seed in (None, 0, 1):
        pairs = zip(*(one.batches(batches, seed=seed, workers=0) for one in (observed, computed)), strict=True)
        assert all(torch.equal(stored, masks) for (_, stored), (_, masks) in pairs)
    stored, masks = (
        torch.cat([one for _, one in source.in_order(batch_size=4, workers=0)]) for source in (observed, computed)
    )
    assert torch.equal(stored, masks)
    assert not torch.equal(observed.view_labels[:9], images.labels)
    assert labels_of_views(images.unaugmented(), 0) is None
