"""Pictures of any number of channels: arrays and TIFF in folders, as uint8 images of the model's size."""

import io
import re
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from peft_vision.core.config import ConfigError
from peft_vision.core.preprocessing import Normalize, Preprocessing
from peft_vision.data.arrays import Arrays
from peft_vision.data.bands import Bands, as_bands, eight_bits, read_bands
from peft_vision.data.decode import UNREADABLE, Geometry, picture_of
from peft_vision.data.fill import verify
from peft_vision.data.images import Undecoded
from peft_vision.data.pictures import Files, labelled
from tiff_writer import tiff


def expecting(channels, size=16):
    return Preprocessing(size, (0.5,) * channels, (0.5,) * channels, "bicubic", 0.8)


def values(key, channels, kind=np.uint8, height=24, width=20):
    most = np.iinfo(kind).max
    return np.random.default_rng(key).integers(0, most, (height, width, channels), dtype=kind, endpoint=True)


def stored(path, array):
    """Write an array to a file, in the form of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    match path.suffix:
        case ".npy":
            np.save(path, array)
        case ".npz":
            np.savez_compressed(path, image=array)
        case ".tif":
            path.write_bytes(tiff(array, deflate=True))
        case _:
            Image.fromarray(array).save(path)


def folder(root, channels, ending=".npy", kind=np.uint8):
    for key, split in enumerate(("train", "test")):
        for label, name in enumerate(("forest", "sea")):
            for index in range(4):
                stored(root / split / name / f"{index}{ending}", values(100 * key + 10 * label + index, channels, kind))
    return root


def pixels(splits, seed=None, count=4):
    return next(splits.train.batches([torch.arange(count)], seed=seed, workers=0))[0]


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("ending", [".npy", ".npz", ".tif"])
def test_each_channel_is_what_a_grey_picture_of_it_would_be(make, tmp_path, cache, resize, ending):
    options = {"resize": resize, "cache": cache, "augment": "none"}
    root = folder(tmp_path / "bands", 5, ending)
    seen = pixels(make("image_folder", path=str(root), **options).load(expecting(5)))
    assert seen.shape == (4, 5, 16, 16)
    assert seen.dtype == torch.uint8
    assert Normalize(expecting(5))(seen).shape == seen.shape
    for channel in range(5):
        for path in root.rglob(f"*{ending}"):
            grey = tmp_path / "grey" / path.relative_to(root).with_suffix(".png")
            stored(grey, picture_of(path.read_bytes(), 5).values[..., channel])
        one = pixels(make("image_folder", path=str(tmp_path / "grey"), **options).load(expecting(1)))
        assert torch.equal(seen[:, channel : channel + 1], one)


@pytest.mark.parametrize("cache", [True, False])
def test_three_channels_are_colours_whatever_the_file(make, tmp_path, cache):
    splits = [
        make("image_folder", path=str(folder(tmp_path / ending, 3, f".{ending}")), cache=cache).load(expecting(3))
        for ending in ("png", "npy", "npz", "tif")
    ]
    assert all(torch.equal(pixels(other), pixels(splits[0])) for other in splits[1:])


@pytest.mark.parametrize("augment", ["flip_crop", "crop_flip"])
@pytest.mark.parametrize("cache", [True, False])
def test_any_number_of_channels_is_augmented_as_three_are(make, tmp_path, augment, cache):
    root = folder(tmp_path, 6)
    options = {"path": str(root), "resize": "crop", "augment": augment, "cache": cache}
    six = pixels(make("image_folder", **options).load(expecting(6)), seed=1)
    for path in root.rglob("*.npy"):
        np.save(path, np.load(path)[..., 3:])
    assert torch.equal(six[:, 3:], pixels(make("image_folder", **options).load(expecting(3)), seed=1))


def test_augmentation_of_colours_is_refused_for_other_channels(make, tmp_path):
    data = make("image_folder", path=str(folder(tmp_path, 6)), augment="rand_augment")
    with pytest.raises(ConfigError, match=r"^data.augment: rand_augment changes colours, and the backbone takes 6"):
        data.load(expecting(6))


@pytest.mark.parametrize("ending", [".npy", ".npz", ".tif"])
@pytest.mark.parametrize("full_scale", [None, 65535, 10000])
def test_sixteen_bits_become_eight_by_the_stated_scale(make, tmp_path, ending, full_scale):
    root = folder(tmp_path / "deep", 4, ending, np.uint16)
    deep = make("image_folder", path=str(root), full_scale=full_scale).load(expecting(4))
    for path in root.rglob(f"*{ending}"):
        flat = tmp_path / "flat" / path.relative_to(root).with_suffix(".npy")
        stored(flat, eight_bits(picture_of(path.read_bytes(), 4).values, full_scale))
    assert torch.equal(pixels(deep), pixels(make("image_folder", path=str(tmp_path / "flat")).load(expecting(4))))


def test_scale_rounds_and_cuts_off():
    shown = eight_bits(np.array([0, 19, 20, 5000, 10000, 65535], np.uint16), 10000)
    assert shown.tolist() == [0, 0, 1, 128, 255, 255]
    assert eight_bits(np.array([0, 255, 256, 65535], np.uint16), None).tolist() == [0, 0, 1, 255]


def test_scale_of_grey_pictures_of_sixteen_bits_is_the_same(make, tmp_path):
    root = folder(tmp_path / "a", 1, ".npy", np.uint16)
    for path in root.rglob("*.npy"):
        stored(tmp_path / "b" / path.relative_to(root).with_suffix(".png"), np.load(path)[..., 0])
    for channels in (1, 3):
        arrays, pictures = (
            pixels(make("image_folder", path=str(tmp_path / name), full_scale=10000).load(expecting(channels)))
            for name in "ab"
        )
        assert torch.equal(arrays, pictures)


def test_scale_is_part_of_what_the_store_of_features_is_keyed_by(tmp_path):
    pictures = Files(folder(tmp_path, 4, kind=np.uint16), ["train/sea/0.npy"])
    digests = {
        Undecoded(pictures, torch.tensor([0]), Geometry(16, "squash", 1, "bicubic", channels, scale)).digest()
        for channels, scale in ((4, None), (4, 10000), (3, None))
    }
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("shape", "channels", "expected"),
    [
        ((13, 64, 64), 13, (64, 64, 13)),
        ((64, 64, 13), 13, (64, 64, 13)),
        ((13, 64, 64), None, (64, 64, 13)),
        ((64, 64, 13), None, (64, 64, 13)),
        ((64, 32), 1, (64, 32, 1)),
        ((4, 9, 4), 4, (4, 9, 4)),
        ((4, 9, 6), 6, (4, 9, 6)),
        ((6, 5, 4), 6, (5, 4, 6)),
        ((10, 64, 64), 13, (64, 64, 10)),
    ],
)
def test_channels_are_the_last_axis_or_the_first(shape, channels, expected):
    assert as_bands(np.zeros(shape, np.uint8), channels).values.shape == expected


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_the_fourth_channel(make, tmp_path, mode):
    root, whole = folder(tmp_path / "a", 4, ".png"), tmp_path / "b"
    for path in root.rglob("*.png"):
        with Image.open(path) as image:
            converted = image.quantize(8) if mode == "P" else image.convert(mode)
        converted.save(path)
        stored(whole / path.relative_to(root).with_suffix(".npy"), np.asarray(converted.convert("RGBA")))
    seen, expected = (pixels(make("image_folder", path=str(place)).load(expecting(4))) for place in (root, whole))
    assert seen.shape == (4, 4, 16, 16)
    assert torch.equal(seen, expected)
    assert pixels(make("image_folder", path=str(root)).load(expecting(3))).shape == (4, 3, 16, 16)


@pytest.mark.parametrize("on_corrupt", ["error", "skip"])
@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize(
    ("ending", "held", "wanted", "words"),
    [
        (".npy", 4, 5, "has 4 channels, and the backbone takes 5"),
        (".npy", 4, 3, "has 4 channels, and the backbone takes 3"),
        (".tif", 6, 3, "has 6 channels, and the backbone takes 3"),
        (".png", 3, 4, "has 3 channels, and the backbone takes 4"),
        (".npy", 1, 2, "has 1 channel, and the backbone takes 2"),
    ],
)
def test_one_file_of_other_channels_is_named_with_both_numbers(
    make, tmp_path, cache, on_corrupt, ending, held, wanted, words
):
    root = folder(tmp_path, wanted, ".png" if ending == ".png" else ending)
    odd = root / "train/sea" / f"2{ending}"
    stored(odd, values(7, held))
    data = make("image_folder", path=str(root), cache=cache, on_corrupt=on_corrupt, augment="none")
    with pytest.raises(ConfigError, match=f"^{re.escape(f'data: {odd} {words} (backbone.in_chans)')}$"):
        data.load(expecting(wanted))


def test_grey_array_stands_for_three_channels_and_colours_not_for_one(make, tmp_path):
    data = make("image_folder", path=str(folder(tmp_path / "a", 1)))
    one, three = (pixels(data.load(expecting(channels))) for channels in (1, 3))
    assert torch.equal(one.expand(-1, 3, -1, -1), three)
    coloured = make("image_folder", path=str(folder(tmp_path / "b", 3)))
    with pytest.raises(ConfigError, match="has colours, and the backbone takes one channel"):
        coloured.load(expecting(1))


def test_arrays_beside_pictures_are_passed_over_as_before(make, folder, picture):
    before = make("image_folder", path=str(folder)).load(expecting(3))
    np.save(folder / "train/cat/features.npy", np.zeros(7))
    after = make("image_folder", path=str(folder)).load(expecting(3))
    assert after.fingerprint == before.fingerprint


def test_twins_and_fingerprint_follow_the_files(make, tmp_path):
    root = folder(tmp_path, 5)
    before = make("image_folder", path=str(root)).load(expecting(5))
    assert before.twins == {}
    (root / "test/sea/0.npy").write_bytes((root / "train/sea/0.npy").read_bytes())
    after = make("image_folder", path=str(root), val_fraction=0.0).load(expecting(5))
    assert after.twins["test in train"].count == 1
    np.save(root / "train/sea/0.npy", values(3, 5, height=9))
    again = make("image_folder", path=str(root), val_fraction=0.0).load(expecting(5))
    assert len({before.fingerprint, again.fingerprint}) == 2
    assert make("image_folder", path=str(root), val_fraction=0.0).fingerprint(skipped=0) == again.fingerprint


def spoilt(ending):
    """Files that look like pictures of five channels until they are read, with a word of the reason."""
    whole = io.BytesIO()
    np.save(whole, values(1, 5))
    archive = io.BytesIO()
    np.savez(archive, a=values(1, 5), b=values(2, 5))
    objects = io.BytesIO()
    np.save(objects, np.array([{}], dtype=object), allow_pickle=True)
    floats = io.BytesIO()
    np.save(floats, np.zeros((9, 9, 5), np.float32))
    long = io.BytesIO()
    np.save(long, np.zeros((20_000, 2, 5), np.uint8))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_LZMA) as file:
        file.writestr("a.npy", whole.getvalue())
    empty = io.BytesIO()
    np.save(empty, np.zeros((0, 9, 5), np.uint8))
    return {
        "truncated": (whole.getvalue()[:-5], "array of"),
        "two": (archive.getvalue(), "2 arrays, should be one"),
        "objects": (objects.getvalue(), "not unpickled"),
        "floats": (floats.getvalue(), "values of float32, should be uint8 or uint16"),
        "long": (long.getvalue(), "too narrow for a picture"),
        "lzma": (packed.getvalue(), "not pack"),
        "empty": (empty.getvalue(), "should be (height, width, channels)"),
        "text": (b"a text", "no picture, or of no known format"),
        "lzw": (tiff(values(1, 5), t259=5), "compression 5; none and deflate are read"),
        "short": (tiff(values(1, 5))[:100], ""),
    }[ending]


@pytest.mark.parametrize("written", [{}, {"planes": True}, {"deflate": True}], ids=["rows", "planes", "deflated"])
def test_colours_of_sixteen_bits_in_a_tiff_are_not_cut_to_eight(tmp_path, written):
    """Pillow would, and knows no planes of 16 bits; photometric 2 says that they are colours."""
    deep = values(1, 3, np.uint16) % 3000
    (tmp_path / "a.tif").write_bytes(tiff(deep, t262=2, **written))
    np.save(tmp_path / "b.npy", deep)
    geometry = Geometry(16, "squash", 1, "bicubic", full_scale=3000)
    tif, array = (Files(tmp_path, [name]).shaped(0, geometry) for name in ("a.tif", "b.npy"))
    assert np.array_equal(tif, array)
    assert tif.max() > 200


@pytest.mark.parametrize("mode", ["P", "YCbCr", "CMYK", "1", "L"])
def test_a_tiff_that_has_other_values_than_intensities_is_read_by_pillow(tmp_path, mode):
    colours = Image.fromarray(values(2, 3))
    colours.convert(mode).save(tmp_path / "a.tif")
    with Image.open(tmp_path / "a.tif") as image:
        expected = image.convert("RGB")
    assert np.array_equal(np.asarray(picture_of((tmp_path / "a.tif").read_bytes(), 3)), np.asarray(expected))
    if mode == "CMYK":  # not red, green, blue and transparency
        with pytest.raises(ConfigError, match="has 3 channels, and the backbone takes 4"):
            Files(tmp_path, ["a.tif"]).shaped(0, Geometry(16, "squash", 1, "bicubic", 4))


def test_changed_pictures_are_told_where_one_of_many_channels_is_left_out(make, tmp_path):
    root = folder(tmp_path, 5)
    (root / "train/sea/1.npy").write_bytes(b"torn")
    data = make("image_folder", path=str(root), on_corrupt="skip", val_fraction=0.0)
    kept = data.load(expecting(5))
    assert data.fingerprint(skipped=kept.skipped) == kept.fingerprint
    np.save(root / "train/sea/0.npy", values(3, 5, height=9))
    assert data.fingerprint(skipped=kept.skipped) != kept.fingerprint


@pytest.mark.parametrize(
    "kind", ["truncated", "two", "objects", "floats", "long", "lzma", "empty", "text", "lzw", "short"]
)
@pytest.mark.parametrize("cache", [True, False])
def test_damaged_files_are_named_or_left_out(make, tmp_path, kind, cache):
    root = folder(tmp_path, 5)
    content, reason = spoilt(kind)
    (root / "train/sea/1.npy").write_bytes(content)
    options = {"path": str(root), "cache": cache, "val_fraction": 0.0}
    with pytest.raises(ConfigError, match=re.escape(f"data: cannot read {root}/train/sea/1.npy (")) as caught:
        make("image_folder", **options).load(expecting(5))
    assert reason in str(caught.value).splitlines()[0]
    kept = make("image_folder", **options, on_corrupt="skip").load(expecting(5))
    assert (kept.skipped, len(kept.train.labels)) == (1, 7)


@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_no_damage_of_an_array_raises_anything_else_than_what_readers_expect(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    stored(path, values(1, 3, height=5, width=4))
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    for _ in range(600):
        content = bytearray(whole[: generator.integers(6, len(whole) + 1)])
        for place in generator.integers(0, len(content), generator.integers(0, 4)):
            content[place] = generator.integers(256)
        try:
            picture_of(bytes(content), 3)
        except UNREADABLE:
            continue


def test_arrays_in_memory_have_any_number_of_channels():
    five = labelled(Arrays(np.stack([values(key, 5) for key in range(3)])), [0, 1, 0])
    geometry = Geometry(16, "squash", 1, "bicubic", 5)
    assert Undecoded(five.pictures, five.indices, geometry)[torch.arange(3)].shape == (3, 5, 16, 16)
    assert not verify(five, threads=1, label="x", geometry=geometry)
    assert five.pictures.read(0).mode == "RGB"
    with pytest.raises(ConfigError, match="image 0 has 5 channels, and the backbone takes 3"):
        verify(five, threads=1, label="x", geometry=Geometry(16, "squash", 1, "bicubic"))
    grey = Arrays(values(1, 4)[None, ..., 0])
    assert grey.with_channels(0, 3).channels == 1


def test_preview_for_people_is_the_first_three_channels():
    assert np.array_equal(np.asarray(Bands(values(1, 5)).preview()), values(1, 5)[..., :3])
    assert np.array_equal(np.asarray(Bands(values(1, 2)).preview())[..., 2], values(1, 2)[..., 0])
    deep = read_bands(tiff(values(1, 4, np.uint16)), 4).preview()
    assert (deep.mode, deep.size) == ("RGB", (20, 24))
