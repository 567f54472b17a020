import numpy as np
import pytest
from PIL import Image

from peft_vision.data.vtab.pictures import Derived, scaled
from peft_vision.data.vtab.raw.retinopathy import btgraham_300, prepared


def eye(radius: int, *, width: int, height: int, colour: tuple[int, int, int] = (200, 100, 50)) -> Image.Image:
    """A disc on black."""
    rows, columns = np.ogrid[:height, :width]
    inside = (rows - height // 2) ** 2 + (columns - width // 2) ** 2 <= radius**2
    return Image.fromarray(np.where(inside[..., None], np.uint8(colour), np.uint8(0)))


@pytest.mark.parametrize("radius", [75, 150, 450])
def test_an_eye_of_any_size_becomes_one_of_300_pixels_cropped_to_its_inner_part(radius: int):
    image = prepared(eye(radius, width=3 * radius, height=5 * radius // 2))
    assert image.shape == (540, 540, 3)


def test_even_colour_becomes_grey_and_so_does_what_is_outside():
    image = prepared(eye(300, width=800, height=700))
    middle = image[270 - 100 : 270 + 100, 270 - 100 : 270 + 100]
    assert np.abs(middle.astype(int) - 128).max() <= 4  # what differs is the rounding of the blurred image, fourfold
    assert (image[0, 0] == 128).all()
    assert (image[270, 0] == 128).all() or (image[270, 0] > 0).any()


def test_a_bright_spot_is_brought_out_four_times():
    published = np.array(eye(300, width=700, height=700, colour=(100, 100, 100)))
    published[340:361, 340:361] = 110
    image = prepared(Image.fromarray(published))
    spot, beside = int(image[270, 270, 0]), int(image[270, 340, 0])
    # 4 (110 - blurred) + 128; of a square of 21 pixels, a blur of 10 keeps erf(1.05 / sqrt 2)^2 = 0.499 in its middle
    assert spot == pytest.approx(128 + 40 * (1 - 0.499), abs=4)
    assert beside == pytest.approx(128, abs=4)


def test_a_low_picture_is_cropped_in_its_width_only():
    # the middle row of such an eye has 601 pixels, so that 400 rows become 400 * 600 / 601
    image = prepared(eye(300, width=640, height=400))
    assert image.shape == (399, 540, 3)


def test_a_picture_without_light_is_taken_to_fill_its_height():
    assert prepared(Image.new("RGB", (300, 200))).shape == (540, 540, 3)


def test_it_is_stored_as_a_jpeg_in_between(picture):
    published = picture(1, 70, 70).resize((700, 700))
    image = btgraham_300(published)
    before = prepared(published)
    assert (image.mode, np.asarray(image).shape) == ("RGB", before.shape)
    difference = np.abs(np.asarray(image).astype(int) - before).mean()
    assert 0 < difference < 20


def test_scaling_takes_the_nearest_pixels_only():
    published = np.zeros((1, 8, 3), np.uint8)
    published[0, :, 0] = [0, 10, 20, 30, 40, 50, 60, 70]
    # pixel x of a quarter is at 4 x + 1.5 of the original: halfway between two pixels
    assert np.asarray(scaled(Image.fromarray(published), 0.25))[0, :, 0].tolist() == [15, 55]
    assert scaled(Image.new("RGB", (10, 7)), 0.5).size == (5, 4)


def test_derived_pictures_are_told_apart_from_the_published(picture):
    import torch

    from peft_vision.data.arrays import Arrays

    arrays = Arrays(np.stack([np.asarray(picture(1)), np.asarray(picture(2))]))

    def mirrored(image: Image.Image) -> Image.Image:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    derived = Derived(arrays, mirrored)
    indices = torch.tensor([1])
    assert len(derived) == 2
    assert np.array_equal(np.asarray(derived.read(1)), np.asarray(picture(2))[:, ::-1])
    assert list(derived.identify(indices)) == [b"mirrored", *arrays.identify(indices)]
    assert derived.name(0) == arrays.name(0)
