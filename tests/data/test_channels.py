"""Pictures of one channel: grey files are read as they are, colours are refused by the picture's name."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from peft_vision.core.config import ConfigError
from peft_vision.core.preprocessing import Normalize, Preprocessing
from peft_vision.data.decode import Geometry


def expecting(channels, size=16):
    return Preprocessing(size, (0.5,) * channels, (0.5,) * channels, "bicubic", 0.8)


@pytest.fixture
def grey(folder):
    """The folder of pictures, in grey."""
    for path in folder.rglob("*.png"):
        with Image.open(path) as image:
            image.convert("L").save(path)
    return folder


def pixels(splits, seed=None):
    return next(splits.train.batches([torch.arange(4)], seed=seed, workers=0))[0]


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_grey_pictures_have_one_channel_that_is_each_of_the_three(make, grey, cache, resize):
    data = make("image_folder", path=str(grey), resize=resize, cache=cache, augment="none")
    one, three = (pixels(data.load(expecting(channels))) for channels in (1, 3))
    assert one.shape == (4, 1, 16, 16)
    assert torch.equal(one.expand(-1, 3, -1, -1), three)
    assert Normalize(expecting(1))(one).shape == one.shape


@pytest.mark.parametrize("augment", ["crop_flip", "flip_crop", "rand_augment"])
@pytest.mark.parametrize("cache", [True, False])
def test_one_channel_is_augmented(make, grey, augment, cache):
    data = make("image_folder", path=str(grey), resize="crop", cache=cache, augment=augment)
    one, three = (data.load(expecting(channels)) for channels in (1, 3))
    assert pixels(one, seed=1).shape == (4, 1, 16, 16)
    if augment != "rand_augment":  # whose operations are on colours
        assert torch.equal(pixels(one, seed=1).expand(-1, 3, -1, -1), pixels(three, seed=1))
    empty = next(one.train.batches([torch.arange(0)], seed=1, workers=0))[0]
    assert empty.shape == (0, 1, 16, 16)


@pytest.mark.parametrize("on_corrupt", ["error", "skip"])
@pytest.mark.parametrize("cache", [True, False])
def test_colours_are_refused_by_the_name_of_the_picture(make, grey, picture, cache, on_corrupt):
    path = grey / "train/cat/3.png"
    picture(7).save(path)
    data = make("image_folder", path=str(grey), cache=cache, on_corrupt=on_corrupt, augment="none")
    said = f"data: {path} has colours, and the backbone takes one channel; backbone.in_chans=3 takes three"
    with pytest.raises(ConfigError, match=f"^{re.escape(said)}$"):
        data.load(expecting(1))
    data.load(expecting(3))


@pytest.mark.parametrize("channels", [2, 4, 13])
def test_channels_that_no_picture_has_are_refused_by_the_name_of_the_first(make, grey, channels):
    data = make("image_folder", path=str(grey), augment="none", val_fraction=0.0)
    said = f"data: {grey / 'train/bird/0.png'} has 1 channel, and the backbone takes {channels} (backbone.in_chans)"
    with pytest.raises(ConfigError, match=f"^{re.escape(said)}$"):
        data.load(expecting(channels))


@pytest.mark.parametrize("channels", [2, 4])
def test_pictures_in_memory_of_other_channels_are_refused(make, channels):
    with pytest.raises(ConfigError, match=rf"^data: image \d+ has 3 channels, and the backbone takes {channels} \("):
        make("digits").load(expecting(channels))


def test_keys_of_the_store_for_three_channels_stay_as_they_were():
    assert repr(Geometry(16, "crop", 0.9, "bicubic")) == (
        "Geometry(size=16, resize='crop', crop=0.9, interpolation='bicubic')"
    )


def test_sixteen_bit_grey_is_scaled_and_not_clipped(make, grey):
    values = np.linspace(0, 65535, 20 * 24, dtype=np.uint16).reshape(24, 20)
    Image.fromarray(values).save(grey / "train/bird/0.png")
    data = make("image_folder", path=str(grey), augment="none", resize="squash")
    data.load(expecting(1))
