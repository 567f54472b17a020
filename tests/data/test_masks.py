"""data=masks: pictures with a class for each pixel."""

import shutil
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mask_miniatures import CLASSES, VOID, drawn, masked, pixels
from peft_vision.core.config import ConfigError
from peft_vision.core.preprocessing import Preprocessing
from peft_vision.data.decode import Misfit, open_bytes
from peft_vision.data.images import MaskedImages, UncroppedImages, Undecoded
from peft_vision.data.mask_files import MaskCode
from peft_vision.testing import check_data

OPTIONS = {"classes": CLASSES, "ignore": [VOID], "val_fraction": 0}


@pytest.fixture
def data(make):
    return lambda root, **overrides: make("masks", path=str(root), **{**OPTIONS, **overrides})


def expected(key: int, width: int = 24, height: int = 20) -> np.ndarray:
    _, mask = pixels(key, width, height)
    return np.where(mask == VOID, 255, mask)


def batch(images: MaskedImages, *, seed: int | None = None, workers: int = 0):
    batches = images.batches(torch.arange(len(images)).split(3), seed=seed, workers=workers)
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))


def test_a_mask_is_the_label_of_its_picture(data, preprocessing, tmp_path: Path):
    root = masked(tmp_path, {"train": 4, "val": 2, "test": 3})
    splits = data(root).load(preprocessing)
    assert (splits.classes, splits.labels_are) == (CLASSES, "masks")
    assert [len(images) for images in splits.parts().values()] == [4, 2, 3]
    assert splits.source.endswith("4 train + 2 val + 3 test images with masks of 3 classes")
    shown, masks = batch(splits.val)
    assert (shown.shape, masks.shape) == ((2, 3, 16, 16), (2, 16, 16))
    assert torch.equal(masks, splits.val.labels)
    check_data("masks", path=str(root), **OPTIONS)
    assert torch.equal(splits.val.relabelled(torch.arange(3)).labels, splits.val.labels)
    with pytest.raises(ConfigError, match=r"data.classes: masks are scored"):
        splits.val.relabelled(torch.tensor([0, 2, 1]))
    for place in range(2):
        whole = expected(100 + place)
        assert np.array_equal(splits.val.whole_mask(place), whole)
        nearest = Image.fromarray(whole).resize((16, 16), Image.Resampling.NEAREST)
        assert np.array_equal(masks[place], nearest)


def test_the_picture_is_what_it_is_without_a_mask(data, make, preprocessing, tmp_path: Path):
    root = masked(tmp_path / "masks", {"train": 4, "test": 1})
    shown, _ = batch(data(root).load(preprocessing).train)
    for name in ("a", "b"):
        shutil.copytree(root / "train" / "images", tmp_path / "plain" / "train" / name)
        shutil.copytree(root / "test" / "images", tmp_path / "plain" / "test" / name)
    plain = make("image_folder", path=str(tmp_path / "plain"), val_fraction=0).load(preprocessing).train
    assert torch.equal(shown, plain.pixels[:4])


def test_a_cropped_picture_is_scored_by_the_part_of_its_mask_that_it_shows(data, preprocessing, tmp_path: Path):
    root = masked(tmp_path, {"train": 3, "test": 1}, sides=(80, 40))
    images = data(root, resize="crop", crop=0.5).load(preprocessing).test
    assert np.array_equal(images.whole_mask(0), expected(100, 80, 40)[10:30, 30:50])  # 16 of 32 pixels are 20 of 40
    images = data(root, resize="crop", crop=1.0).load(replace(preprocessing, size=(16, 32))).test
    assert np.array_equal(images.whole_mask(0), expected(100, 80, 40))


@pytest.mark.parametrize("mode", ["P", "1", "I;16", "four bits"])
def test_indices_are_read_whatever_holds_them(data, preprocessing, tmp_path: Path, mode: str):
    root = masked(tmp_path, {"train": 3, "test": 1})
    path = root / "test" / "masks" / "00.png"
    values = pixels(100, 24, 20)[1]
    if mode == "1":
        values = (values > 0).astype(np.uint8)
        Image.fromarray(values.astype(bool)).save(path)
    elif mode == "P":
        image = Image.fromarray(values, mode="P")
        image.putpalette([200, 100, 50] * 256)  # all of one colour: only the places in it say what they mean
        image.save(path)
    elif mode == "I;16":
        Image.fromarray(values.astype(np.uint16)).save(path)
    else:
        path.write_bytes(four_bits(values))
    images = data(root).load(preprocessing).test
    assert np.array_equal(images.whole_mask(0), np.where(values == VOID, 255, values))


def four_bits(values: np.ndarray) -> bytes:
    """A PNG of grey values of 4 bits, as programs write that make files small."""
    rows = b"".join(b"\0" + (row[0::2] << 4 | row[1::2]).tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 4, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def test_zero_is_ignored_and_the_first_class_is_one(data, preprocessing, tmp_path: Path):
    root = masked(tmp_path, {"train": 2, "test": 1})
    images = data(root, reduce_zero_label=True, classes=("road", "car")).load(preprocessing).test
    _, mask = pixels(100, 24, 20)
    assert np.array_equal(images.whole_mask(0), np.where((mask == 0) | (mask == VOID), 255, mask - 1))


def test_colours_are_classes_where_they_are_named(data, preprocessing, tmp_path: Path):
    root = masked(tmp_path, {"train": 2, "test": 2})
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[[0, 1, 2, VOID]] = [[128, 64, 128], [70, 70, 70], [0, 0, 142], [0, 0, 0]]
    for path in root.glob("*/masks/*.png"):
        Image.fromarray(palette[np.asarray(Image.open(path))]).save(path)
    colors = {"128,64,128": "sky", "70, 70, 70": "road", "0,0,142": "car", "0,0,0": None}
    images = data(root, colors=colors).load(preprocessing).test
    assert np.array_equal(images.whole_mask(1), expected(101))
    del colors["0,0,0"]
    with pytest.raises(ConfigError, match=r"holds the colour 0,0,0, not among the 3 .*; 3 more of 4"):
        data(root, colors=colors).load(preprocessing)


def test_undivided_folders_have_their_parts_drawn(data, preprocessing, tmp_path: Path):
    drawn(tmp_path, "images", "masks", names=[f"city/{place}" for place in range(10)])
    splits = data(tmp_path, val_fraction=0.25).load(preprocessing)
    assert [len(images) for images in splits.parts().values()] == [6, 2, 2]
    assert "test part drawn, 0.2 of all" in splits.source


def test_parallel_folders_may_be_divided(data, preprocessing, tmp_path: Path):
    for place, (split, count) in enumerate({"training": 3, "validation": 2}.items()):
        names = [f"{place}{number}" for number in range(count)]
        drawn(tmp_path, f"img/{split}", f"ann/{split}", names=names)
    splits = data(tmp_path, images="img", masks="ann", test_fraction=0.4).load(preprocessing)
    assert {split: len(images) for split, images in splits.parts().items()} == {"train": 2, "val": 2, "test": 1}


def test_names_of_masks_may_end_in_something(data, preprocessing, tmp_path: Path):
    root = masked(tmp_path, {"train": 3, "test": 1})
    for path in list(root.glob("*/masks/*.png")):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
        Image.new("RGB", (3, 3)).save(path.with_name(f"{path.stem}_color.png"))
    assert len(data(root, mask_end="_mask").load(preprocessing).train) == 3


def test_classes_may_be_lines_of_a_file(data, tmp_path: Path):
    root = masked(tmp_path / "data", {"train": 3, "test": 1})
    (tmp_path / "names.txt").write_text("sky\nroad\n\n car \n")
    assert data(root, classes=None, classes_file=str(tmp_path / "names.txt")).open().classes == CLASSES


def test_size_seed_and_stage_divide_as_always(data, tmp_path: Path):
    root = masked(tmp_path, {"train": 12, "test": 2})
    small, large = ({int(index) for index in data(root, train_size=size).parts()["train"].indices} for size in (4, 8))
    assert small < large
    parts = data(root, val_fraction=0.25, stage="tune").parts()
    assert {split: len(part) for split, part in parts.items()} == {"train": 9, "val": 3}
    root = masked(tmp_path / "with val", {"train": 4, "val": 2, "test": 2})
    final = data(root, stage="final").load(Preprocessing(16, (0.5,) * 3, (0.5,) * 3, "bicubic", 1.0))
    _, masks = batch(final.train)
    assert len(masks) == 6
    assert np.array_equal(final.train.whole_mask(5), expected(101))
    assert final.train.part.pictures.masked
    with pytest.raises(ConfigError, match=r"counts images of each class, and .* whose labels are masks"):
        data(root, shots=2).parts()


def test_a_class_without_a_training_pixel_is_told(data, preprocessing, tmp_path: Path):
    root = masked(tmp_path, {"train": 2, "test": 1})
    one_more = data(root, classes=(*CLASSES, "x"))
    assert "of 4 classes, 1 of them without a training image" in one_more.load(preprocessing).source
    assert "them without" not in one_more.load(preprocessing, read={"test"}).source
    for path in (root / "train" / "masks").iterdir():
        Image.new("L", (24, 20), VOID).save(path)
    with pytest.raises(ConfigError, match="every pixel of the 2 training masks is ignored"):
        data(root).load(preprocessing)


@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("augment", ["none", "flip_crop", "crop_flip", "scale_crop_flip"])
def test_a_cached_epoch_equals_a_decoded_one(data, preprocessing, tmp_path: Path, resize: str, augment: str):
    if (resize, augment) == ("squash", "crop_flip"):
        return
    root = masked(tmp_path, {"train": 7, "test": 1}, sides=(40, 30))
    given = {"augment": augment, "resize": resize}
    cached, decoded = (data(root, cache=cache, **given).load(preprocessing).train for cache in (True, False))
    of_wholes = resize == "crop" and augment in ("crop_flip", "scale_crop_flip")
    assert isinstance(cached.pixels, UncroppedImages if of_wholes else torch.Tensor)
    assert isinstance(decoded.pixels, Undecoded)
    for seed in (None, 0):
        first = batch(cached, seed=seed)
        for other in (batch(decoded, seed=seed), batch(decoded, seed=seed, workers=2)):
            assert all(torch.equal(one, two) for one, two in zip(first, other, strict=True))
    assert torch.equal(cached.labels, decoded.labels)
    assert torch.equal(batch(cached.unaugmented(), seed=0)[1], cached.labels)
    assert cached.whole_image(0).shape == ((3, 20, 26) if resize == "crop" else (3, 16, 16))


def test_the_fingerprint_follows_every_byte_of_a_mask(data, tmp_path: Path):
    root = masked(tmp_path, {"train": 3, "test": 1})
    path = root / "train" / "masks" / "01.png"
    values = np.asarray(Image.open(path)).copy()
    Image.fromarray(values).save(path, compress_level=0)  # so that its length stays
    before, length = data(root).fingerprint(skipped=0), path.stat().st_size
    values[10, 10] = (values[10, 10] + 1) % 3
    Image.fromarray(values).save(path, compress_level=0)
    assert path.stat().st_size == length
    assert data(root).fingerprint(skipped=0) != before
    assert data(root, ignore=[VOID, 200]).fingerprint(skipped=0) != data(root).fingerprint(skipped=0)


def test_a_corrupt_mask_is_left_out_with_its_picture(data, preprocessing, tmp_path: Path):
    root = masked(tmp_path, {"train": 4, "test": 1})
    path = root / "train" / "masks" / "02.png"
    path.write_bytes(path.read_bytes()[:60])
    for cache in (True, False):
        with pytest.raises(ConfigError, match=r"cannot read .*images/02.png \(ValueError: its mask .*masks/02.png: "):
            data(root, cache=cache).load(preprocessing)
        splits = data(root, cache=cache, on_corrupt="skip").load(preprocessing)
        assert (len(splits.train), splits.skipped) == (3, 1)
        assert splits.fingerprint == data(root, on_corrupt="skip").fingerprint(skipped=1)


def spoiled(root: Path, kind: str) -> None:
    """Spoil the masks of two of three training pictures, and that of the test picture."""
    for path in (
        *(root / "train" / "masks" / name for name in ("00.png", "01.png")),
        root / "test" / "masks" / "00.png",
    ):
        values = np.asarray(Image.open(path))
        if kind == "size":
            Image.fromarray(values[:-1]).save(path)
        elif kind == "values":
            Image.fromarray(np.where(values == 1, 77, values).astype(np.uint8)).save(path)
        elif kind == "grey rgb":
            Image.fromarray(values).convert("RGB").save(path)
        elif kind == "rgb":
            Image.fromarray(pixels(0, 24, 20)[0]).save(path)
        elif kind == "alpha":
            Image.fromarray(values).convert("LA").save(path)
        elif kind == "lossy":
            Image.fromarray(values).save(path, format="JPEG")
        elif kind == "float":
            Image.fromarray(values.astype(np.float32)).save(path, format="TIFF")


WRONG = {
    "size": r"train/masks/00.png has 24 x 19 pixels, and its picture 24 x 20; 2 more of 4 do not fit",
    "values": r"train/masks/00.png holds the value 77, beside those .*; 2 more of 4 do not fit\n.*ignore=\[77\]",
    "grey rgb": r"is an RGB picture, should be an index or palette PNG; 2 more of 4 do not fit\n.*getchannel\(0\)",
    "rgb": r"is an RGB picture, should be an index or palette PNG; 2 more of 4 do not fit\ndata.colors says",
    "alpha": r"is a picture of mode LA, should hold a class for each pixel; 2 more of 4",
    "lossy": r"is a JPEG, which does not keep values exactly; 2 more of 4",
    "float": r"is a picture of mode F, should hold a class for each pixel; 2 more of 4",
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("given", [{}, {"cache": False}, {"on_corrupt": "skip"}], ids=str)
def test_a_mask_that_does_not_fit_is_refused_and_the_others_are_counted(data, preprocessing, tmp_path, kind, given):
    root = masked(tmp_path, {"train": 3, "test": 1})
    spoiled(root, kind)
    with pytest.raises(ConfigError, match=WRONG[kind]) as error:
        data(root, **given).load(preprocessing)
    assert len(str(error.value).splitlines()) == 2


def test_a_picture_turned_by_its_header_has_a_mask_as_it_is_shown(data, preprocessing, tmp_path: Path):
    root = masked(tmp_path, {"train": 3, "test": 1})
    exif = Image.Exif()
    exif[0x0112] = 6
    path = root / "train" / "images" / "00.png"
    Image.open(path).save(path, exif=exif)
    for cache in (True, False):
        with pytest.raises(ConfigError, match="has 24 x 20 pixels, and its picture 20 x 24"):
            data(root, cache=cache).load(preprocessing)
    mask = root / "train" / "masks" / "00.png"
    Image.open(mask).transpose(Image.Transpose.ROTATE_270).save(mask)
    assert len(data(root).load(preprocessing).train) == 3


def lacking(root: Path, kind: str) -> None:
    train = root / "train"
    match kind:
        case "masks and pictures":
            (train / "masks" / "00.png").unlink()
            (train / "masks" / "01.png").unlink()
            (train / "images" / "02.png").unlink()
        case "a picture":
            (train / "images" / "02.png").unlink()
        case "one name":
            (train / "images" / "00.jpg").write_bytes(b"")
        case "no masks":
            shutil.rmtree(train / "masks")
        case "no pictures":
            shutil.rmtree(train)
            (train / "images").mkdir(parents=True)
            (train / "masks").mkdir()
        case "no train":
            shutil.rmtree(train)
        case "two layouts":
            (root / "images").mkdir()
        case "nothing":
            shutil.rmtree(train)
            shutil.rmtree(root / "test")
        case "other splits":
            shutil.rmtree(train)
            shutil.rmtree(root / "test")
            (root / "images" / "train").mkdir(parents=True)
            (root / "masks").mkdir()


LACKING = {
    "masks and pictures": r"2 of 2 pictures have no mask: train/images/00.png, train/images/01.png; "
    "1 of 1 masks have no picture: train/masks/02.png",
    "a picture": "1 of 3 masks have no picture: train/masks/02.png",
    "one name": "train/images/00.jpg and train/images/00.png, which have one name",
    "no masks": "lacks 1 of 2 folders: train/masks",
    "no pictures": "no picture in .*train/images",
    "no train": "holds test and no train",
    "two layouts": "holds train and test, and images or masks beside",
    "nothing": "should hold images/ and masks/, or train/images/, .*; it holds no folders",
    "other splits": "images holds train, and .*masks holds no splits",
}


@pytest.mark.parametrize("kind", LACKING)
def test_what_is_lacking_is_named_before_anything_is_read(data, tmp_path: Path, kind: str):
    root = masked(tmp_path, {"train": 3, "test": 1})
    lacking(root, kind)
    with pytest.raises(ConfigError, match=LACKING[kind]) as error:
        data(root).check()
    assert len(str(error.value).splitlines()) <= 2


REFUSED = {
    "an augmentation that leaves masks behind": (
        {"augment": "rand_augment"},
        "augment=rand_augment does not move masks",
    ),
    "no classes": ({"classes": None}, "data.classes: set it to the names"),
    "one class": ({"classes": ("sky",)}, "1 classes; masks have 2 to 255"),
    "a class twice": ({"classes": ("a", "b", "a")}, "class 'a' is named twice"),
    "classes of a layout": ({"layout": "voc"}, "layout=voc has classes of its own"),
    "a class that is ignored": ({"ignore": [1]}, "holds the value of class 'road'"),
    "no colour": ({"colors": {"red": "sky"}}, "'red' should be red,green,blue"),
    "a colour of no class": ({"colors": {"1,2,3": "x"}}, "means 'x', which is not among the 3 classes"),
    "a class of no colour": ({"colors": {"1,2,3": "sky"}}, "no colour means 'road'"),
    "no folder": ({"path": "/nowhere"}, "data.path: no folder /nowhere"),
}


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_options_that_mean_nothing_are_refused(make, tmp_path: Path, case: str):
    given, said = REFUSED[case]
    root = masked(tmp_path, {"train": 3, "test": 1})
    with pytest.raises(ConfigError, match=said):
        make("masks", **{"path": str(root), **OPTIONS, **given}).check()


@pytest.mark.parametrize("content", [b"P5\n2 1\n1\n\x00\x01", b"P2\n2 1\n1\n0 1\n", b"P5\n2 1\n300\n\x00\x00\x00\x01"])
def test_a_pgm_whose_values_are_read_as_others_is_refused(content):
    code = MaskCode(("background", "thing"), {0: 0, 1: 1, 255: 255})
    with open_bytes(content) as image, pytest.raises(Misfit, match=r"1\.pgm is a PGM of another largest value"):
        code.read(image, "1.pgm")


@pytest.mark.parametrize("content", [b"P5\n2 1\n255\n\x00\x01", b"P2\n2 1\n255\n0 1\n", b"P5\n2 1\n65535\n\0\0\0\1"])
def test_a_pgm_that_keeps_its_values_is_a_mask(content):
    with open_bytes(content) as image:
        assert MaskCode(("background", "thing"), {0: 0, 1: 1}).read(image, "1.pgm").tolist() == [[0, 1]]


def test_grey_tiffs_of_few_bits_hold_classes():
    tags = {256: 4, 257: 1, 258: 2, 259: 1, 262: 1, 273: 0, 277: 1, 278: 1, 279: 1}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    content = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + struct.pack("<I", 0) + bytes([0b00011011])
    with open_bytes(content) as image:
        assert MaskCode(tuple("abcd"), dict(enumerate(range(4)))).read(image, "1.tif").tolist() == [[0, 1, 2, 3]]
