import io

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torchvision.transforms import v2
from torchvision.transforms.functional import InterpolationMode

from peft_vision.data.decode import Geometry, rgb


def test_squash_equals_torchvision(picture):
    image = picture(0, width=50, height=30)
    expected = v2.functional.pil_to_tensor(v2.Resize((16, 16), InterpolationMode.BICUBIC)(image))
    got = Geometry(size=16, resize="squash", crop=0.5, interpolation="bicubic").apply(image)
    assert torch.equal(torch.tensor(got), expected)


@pytest.mark.parametrize(("width", "height"), [(50, 30), (30, 50), (31, 31), (200, 17)])
def test_crop_equals_torchvision(picture, width: int, height: int):
    image = picture(0, width=width, height=height)
    steps = v2.Compose([v2.Resize(int(16 / 0.9), InterpolationMode.BILINEAR), v2.CenterCrop(16)])
    expected = v2.functional.pil_to_tensor(steps(image))
    got = Geometry(size=16, resize="crop", crop=0.9, interpolation="bilinear").apply(image)
    assert torch.equal(torch.tensor(got), expected)


@pytest.mark.parametrize(("width", "height"), [(50, 30), (30, 50), (31, 31), (200, 17), (17, 200), (32, 40), (33, 40)])
@pytest.mark.parametrize("crop", [1.0, 0.9, 0.55])
@pytest.mark.parametrize("size", [(20, 16), (16, 20), (17, 33)])
def test_crop_to_height_and_width_is_what_timm_evaluates(picture, size, crop: float, width: int, height: int):
    image = picture(0, width=width, height=height)
    steps = create_transform((3, *size), interpolation="bicubic", crop_pct=crop, normalize=False)
    got = Geometry(size=size, resize="crop", crop=crop, interpolation="bicubic").apply(image)
    assert torch.equal(torch.tensor(got), steps(image))


def test_squash_to_height_and_width_equals_torchvision(picture):
    image = picture(0, width=50, height=30)
    expected = v2.functional.pil_to_tensor(v2.Resize((16, 24), InterpolationMode.BICUBIC)(image))
    got = Geometry(size=(16, 24), resize="squash", crop=0.5, interpolation="bicubic").apply(image)
    assert torch.equal(torch.tensor(got), expected)


@pytest.mark.parametrize("mode", [mode.value for mode in InterpolationMode])
def test_every_interpolation_a_backbone_may_ask_for_is_known(picture, mode: str):
    assert Geometry(size=8, resize="crop", crop=1.0, interpolation=mode).apply(picture(0)).shape == (3, 8, 8)


def reopened(image: Image.Image, kind: str, **options: object) -> Image.Image:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file)


def test_transparent_pixels_show_white():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 255, 255))
    assert list(rgb(reopened(image, "PNG")).get_flattened_data()) == [(255, 255, 255), (0, 0, 255)]


def test_palette_transparency_shows_white():
    image = Image.new("P", (2, 1), 0)
    image.putpalette([9, 9, 9, 0, 255, 0])
    image.putpixel((1, 0), 1)
    opened = reopened(image, "PNG", transparency=b"\x00\xff")
    assert list(rgb(opened).get_flattened_data()) == [(255, 255, 255), (0, 255, 0)]


def test_a_colour_that_is_transparent_shows_white():
    image = Image.new("RGB", (2, 1), (9, 9, 9))
    image.putpixel((1, 0), (0, 255, 0))
    opened = reopened(image, "PNG", transparency=(9, 9, 9))
    assert list(rgb(opened).get_flattened_data()) == [(255, 255, 255), (0, 255, 0)]


def test_sixteen_bit_grey_is_scaled_not_clipped():
    image = Image.fromarray(np.array([[0, 128 << 8, 65535]], dtype=np.uint16))
    assert list(rgb(reopened(image, "PNG")).get_flattened_data()) == [(0,) * 3, (128,) * 3, (255,) * 3]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "CMYK", "YCbCr", "P", "HSV", "LAB"])
def test_other_modes_become_rgb(picture, mode: str):
    image = picture(0).convert("RGB").convert(mode) if mode != "LAB" else Image.new("LAB", (20, 24))
    assert rgb(image).mode == "RGB"


def test_the_exif_orientation_is_honoured(picture):
    image = picture(0, width=20, height=10)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter to the right to be upright
    opened = rgb(reopened(image, "PNG", exif=exif))
    assert opened.size == (10, 20)
    assert opened.tobytes() == image.transpose(Image.Transpose.ROTATE_270).tobytes()


def test_floating_point_pixels_are_refused():
    with pytest.raises(ValueError, match="no fixed range"):
        rgb(Image.new("F", (2, 2)))
