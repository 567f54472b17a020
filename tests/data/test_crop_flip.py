"""Random windows of the whole resized picture: what FGVC trains on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from peft_vision.core.config import ConfigError, hashed_fields
from peft_vision.core.preprocessing import Preprocessing
from peft_vision.data.augment import crop_flip
from peft_vision.data.digits import Digits
from peft_vision.data.images import Images, UncroppedImages, Undecoded


def numbered(height: int, width: int) -> np.ndarray:
    """Each pixel says where it is: rows in red, columns in green."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([rows, columns, np.zeros_like(rows)])


def places(out: torch.Tensor) -> list[tuple[int, int, bool]]:
    """Top and left of the window that each shows, and whether it is mirrored."""
    mirrored = out[:, 1, 0, 0] > out[:, 1, 0, -1]
    lefts = torch.minimum(out[:, 1, 0, 0], out[:, 1, 0, -1])
    return list(zip(out[:, 0, 0, 0].tolist(), lefts.tolist(), mirrored.tolist(), strict=True))


def test_windows_cover_the_rectangle_evenly_and_half_are_mirrored():
    count = 9_000
    out = crop_flip([numbered(6, 8)] * count, torch.arange(count), size=4, seed=0)
    drawn = places(out)
    tops, lefts, mirrored = (np.bincount(values) / count for values in zip(*drawn, strict=True))
    assert tops == pytest.approx([1 / 3] * 3, abs=0.02)
    assert lefts == pytest.approx([1 / 5] * 5, abs=0.02)
    assert mirrored == pytest.approx([1 / 2] * 2, abs=0.02)
    assert len(set(drawn)) == 3 * 5 * 2  # each draw is independent of the others


def test_a_window_is_cut_out_whole():
    whole = numbered(6, 8)
    out = crop_flip([whole] * 50, torch.arange(50), size=4, seed=1)
    for window, (top, left, mirrored) in zip(out.numpy(), places(out), strict=True):
        expected = whole[:, top : top + 4, left : left + 4]
        assert np.array_equal(window, expected[..., ::-1] if mirrored else expected)


def test_each_shape_has_its_own_room():
    wholes = [numbered(4, 10) if i % 2 else numbered(10, 4) for i in range(400)]
    drawn = places(crop_flip(wholes, torch.arange(400), size=4, seed=0))
    assert {top for top, _, _ in drawn[0::2]} == set(range(7)) == {left for _, left, _ in drawn[1::2]}
    assert {left for _, left, _ in drawn[0::2]} == {0} == {top for top, _, _ in drawn[1::2]}


def test_seed_and_index_alone_decide():
    wholes = [numbered(9, 12)] * 64
    together = crop_flip(wholes, torch.arange(64), size=4, seed=3)
    order = torch.randperm(64)
    assert torch.equal(crop_flip(wholes, order, size=4, seed=3), together[order])
    assert not torch.equal(crop_flip(wholes, torch.arange(64), size=4, seed=4), together)


@pytest.fixture
def shapes(tmp_path: Path, picture) -> Path:
    """Two classes of pictures of six shapes, one of them stored on its side."""
    root = tmp_path / "shapes"
    for split, count in (("train", 6), ("test", 2)):
        for c, name in enumerate(("bird", "cat")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                exif = Image.Exif()
                if i == 1:
                    exif[0x0112] = 6
                picture(10 * c + i, width=30 + 9 * i, height=50 - 3 * i).save(
                    root / split / name / f"{i}.png", exif=exif
                )
    return root


OPTIONS = {"augment": "crop_flip", "resize": "crop", "crop": 0.5, "val_fraction": 0}


def loaded(make, root: Path, preprocessing: Preprocessing, **overrides) -> Images:
    return make("image_folder", path=str(root), **{**OPTIONS, **overrides}).load(preprocessing).train


def epoch(images: Images, *, seed: int | None, workers: int = 0) -> list[torch.Tensor]:
    return [pixels for pixels, _ in images.batches(torch.arange(12).split(5), seed=seed, workers=workers)]


@pytest.mark.parametrize("seed", [None, 0])
def test_a_cached_epoch_equals_a_decoded_one_and_a_repeated_one(make, shapes: Path, preprocessing, seed):
    cached, decoded = (loaded(make, shapes, preprocessing, cache=cache) for cache in (True, False))
    assert isinstance(cached.pixels, UncroppedImages)
    assert isinstance(decoded.pixels, Undecoded)
    first = epoch(cached, seed=seed)
    for others in (epoch(decoded, seed=seed), epoch(decoded, seed=seed, workers=2), epoch(cached, seed=seed)):
        assert all(torch.equal(a, b) for a, b in zip(first, others, strict=True))


def test_later_epochs_decode_nothing(make, shapes: Path, preprocessing):
    images = loaded(make, shapes, preprocessing)
    for file in shapes.rglob("*.png"):
        file.unlink()
    assert not torch.equal(torch.cat(epoch(images, seed=0)), torch.cat(epoch(images, seed=1)))


def test_without_a_seed_the_centre_is_seen_as_without_augmentation(make, shapes: Path, preprocessing):
    plain = loaded(make, shapes, preprocessing, augment="none")
    assert torch.equal(torch.cat(epoch(loaded(make, shapes, preprocessing), seed=None)), plain.pixels)


def test_validation_and_test_images_are_centres_in_one_tensor(make, shapes: Path, preprocessing):
    splits = make("image_folder", path=str(shapes), **{**OPTIONS, "val_fraction": 0.2}).load(preprocessing)
    assert splits.val.pixels.shape == (2, 3, 16, 16)
    assert (splits.val.augment, splits.test.augment) == ("none", "none")


@pytest.mark.parametrize(("size", "crop", "short"), [(224, 0.875, 256), (384, 0.875, 438), (448, 0.875, 512)])
def test_sizes_are_those_of_the_benchmark(size: int, crop: float, short: int, picture, make, tmp_path: Path):
    images = {"a/0.png": picture(0, 60, 47), "a/1.png": picture(1, 37, 90), "b/0.png": picture(2, 50, 50)}
    for split in ("train", "test"):
        for name, image in images.items():
            (tmp_path / split / name).parent.mkdir(parents=True, exist_ok=True)
            image.save(tmp_path / split / name)
    preprocessing = Preprocessing(size=size, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop=0.9)
    splits = make("image_folder", path=str(tmp_path), **{**OPTIONS, "crop": crop}).load(preprocessing)
    assert {min(whole.shape[1:]) for whole in splits.train.pixels.arrays} == {short}
    # torchvision rounds the offset of the centre in the same way, so this is equal to the byte
    steps = v2.Compose([v2.Resize(short, InterpolationMode.BICUBIC), v2.CenterCrop(size), v2.PILToTensor()])
    assert torch.equal(splits.test.pixels, torch.stack([steps(image) for image in images.values()]))


def test_windows_of_height_and_width_are_cut_from_memory_and_from_files(make, shapes: Path, preprocessing):
    upright = replace(preprocessing, size=(24, 16))
    cached, decoded = (loaded(make, shapes, upright, cache=cache) for cache in (True, False))
    for seed in (None, 0):
        first, second = (torch.cat(epoch(images, seed=seed)) for images in (cached, decoded))
        assert first.shape == (12, 3, 24, 16)
        assert torch.equal(first, second)
    plain = loaded(make, shapes, upright, augment="none")
    assert torch.equal(torch.cat(epoch(cached, seed=None)), plain.pixels)
    wide = loaded(make, shapes, replace(preprocessing, size=(16, 24)))
    assert cached.digest() != wide.digest()


def test_memory_is_counted_by_the_shapes(make, shapes: Path, preprocessing):
    images = loaded(make, shapes, preprocessing)
    taken = sum(whole.nbytes for whole in images.pixels.arrays)
    assert taken > 12 * 3 * 32 * 32  # no whole is smaller than its short side squared
    assert isinstance(loaded(make, shapes, preprocessing, memory_gib=taken / 2**30).pixels, UncroppedImages)
    assert isinstance(loaded(make, shapes, preprocessing, memory_gib=(taken - 1) / 2**30).pixels, Undecoded)


def test_a_corrupt_picture_is_left_out_of_the_wholes(make, shapes: Path, preprocessing):
    (shapes / "train" / "bird" / "2.png").write_bytes(b"torn")
    images = loaded(make, shapes, preprocessing, on_corrupt="skip")
    assert len(images) == len(images.pixels.arrays) == 11


def test_the_digest_tells_what_windows_may_show(make, shapes: Path, preprocessing, picture):
    before = loaded(make, shapes, preprocessing).digest()
    assert loaded(make, shapes, preprocessing).digest() == before
    image = np.array(Image.open(shapes / "train" / "bird" / "5.png"))
    image[:, :4] = 0  # at the edge, which no centre shows
    Image.fromarray(image).save(shapes / "train" / "bird" / "5.png")
    assert loaded(make, shapes, preprocessing).digest() != before


def test_the_crop_of_the_data_goes_before_that_of_the_weights(make, preprocessing):
    assert make("digits", resize="crop", crop=0.5).adjusted(preprocessing).crop == 0.5
    assert make("digits").adjusted(preprocessing) == preprocessing


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"augment": "crop_flip"}, "data: augment=crop_flip takes windows of what resize=crop makes"),
        ({"crop": 0.5}, r"data: crop=0.5 is for resize=crop; with squash nothing is cropped \(crop=null\)"),
        ({"crop": 1.5, "resize": "crop"}, "data.crop: got 1.5"),
        ({"crop": 0, "resize": "crop"}, "data.crop: got 0"),
    ],
)
def test_what_does_not_go_together_is_refused(make, values: dict, complaint: str):
    with pytest.raises(ConfigError, match=f"^{complaint}"):
        make("digits", **values)


def test_a_run_with_the_crop_of_its_weights_is_what_it_was():
    assert hashed_fields(Digits, {"crop": None, "split_seed": 0}) == {"split_seed": 0}
    assert hashed_fields(Digits, {"crop": 0.875}) == {"crop": 0.875}
