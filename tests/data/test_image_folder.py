import logging
import os
import shutil
import zipfile
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from damage import refused
from peft_vision.core.config import ConfigError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10_small.zip"


def test_given_splits_are_taken_as_they_are(make, folder: Path, preprocessing, picture):
    (folder / "val" / "dog").mkdir(parents=True)
    picture(5).save(folder / "val" / "dog" / "a.png")
    splits = make("image_folder", path=str(folder), val_fraction=0.5).load(preprocessing)
    assert [len(images) for images in (splits.train, splits.val, splits.test)] == [18, 1, 6]
    assert splits.val.labels.tolist() == [2]
    assert splits.classes == ("bird", "cat", "dog")
    assert splits.source == f"{folder}: 18 train + 1 val + 6 test images of 3 classes"


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "Valid", "VAL"])
def test_a_validation_split_goes_by_any_of_its_usual_names(make, folder: Path, preprocessing, name: str):
    shutil.copytree(folder / "test", folder / name)
    splits = make("image_folder", path=str(folder)).load(preprocessing)
    assert [len(images) for images in (splits.train, splits.val, splits.test)] == [18, 6, 6]
    assert torch.equal(splits.val.pixels, splits.test.pixels)


@pytest.mark.parametrize(("train", "test"), [("Train", "TEST"), ("training", "testing"), ("Training", "test")])
def test_training_and_test_splits_too(make, folder: Path, preprocessing, train: str, test: str):
    before = make("image_folder", path=str(folder)).load(preprocessing)
    for old, new in (("train", train), ("test", test)):
        (folder / old).rename(folder / "moved")
        (folder / "moved").rename(folder / new)
    after = make("image_folder", path=str(folder)).load(preprocessing)
    for split, images in before.parts().items():
        assert torch.equal(after.parts()[split].pixels, images.pixels)
        assert torch.equal(after.parts()[split].labels, images.labels)


@pytest.mark.parametrize(("twice", "split"), [(("val", "valid"), "val"), (("Train", "train"), "train")])
def test_two_folders_of_one_split_are_refused(make, folder: Path, twice: tuple[str, str], split: str):
    for name in twice:
        shutil.copytree(folder / "test", folder / name, dirs_exist_ok=True)
    with pytest.raises(ConfigError) as error:
        make("image_folder", path=str(folder)).check()
    assert str(error.value) == f"data.path: {folder} holds {twice[0]} and {twice[1]}, which both mean {split}; keep one"


@pytest.mark.parametrize("name", ["train", "test", "val", "Dev", "validation"])
def test_a_class_may_be_called_as_a_split(make, folder: Path, preprocessing, name: str):
    before = make("image_folder", path=str(folder / "train")).load(preprocessing)
    (folder / "train" / "cat").rename(folder / "train" / name)
    after = make("image_folder", path=str(folder / "train")).load(preprocessing)
    assert after.classes == tuple(sorted(("bird", "dog", name)))
    assert len(after.train) + len(after.val or ()) == len(before.train) + len(before.val or ())
    assert torch.bincount(after.test.labels).tolist() == torch.bincount(before.test.labels).tolist()


def test_what_could_be_splits_and_classes_is_refused_with_the_option_that_decides(make, folder: Path, picture):
    for name in ("train", "test"):  # as Kaggle packs a competition: pictures without classes
        (folder / "flat" / name).mkdir(parents=True)
        for number in range(6):
            picture(number).save(folder / "flat" / name / f"{number}.png")
    with pytest.raises(ConfigError) as error:
        make("image_folder", path=str(folder / "flat")).check()
    first, second = str(error.value).splitlines()
    assert first.startswith(f"data.path: {folder}/flat holds test, train; it must hold train, test and perhaps val, ")
    assert second == "data.divided=false takes these folders for the classes"
    assert make("image_folder", path=str(folder / "flat"), divided=False).open().classes == ("test", "train")
    with pytest.raises(ConfigError, match=rf"^data.path: no class folders in {folder}/flat/train; "):
        make("image_folder", path=str(folder / "flat"), divided=True).check()


def test_a_folder_beside_the_splits_is_passed_over_only_on_request(make, folder: Path, preprocessing):
    before = make("image_folder", path=str(folder)).load(preprocessing)
    shutil.copytree(folder / "test", folder / "extra")
    with pytest.raises(ConfigError, match=r"\ndata.divided=false .*; data.divided=true passes over extra$"):
        make("image_folder", path=str(folder)).check()
    after = make("image_folder", path=str(folder), divided=True).load(preprocessing)
    assert after.fingerprint == before.fingerprint
    assert after.source.endswith("; without extra")
    assert make("image_folder", path=str(folder), divided=False).open().classes == ("extra", "test", "train")


def test_splits_that_were_asked_for_and_are_not_there_are_named(make, folder: Path):
    with pytest.raises(ConfigError, match=rf"^data.divided: got true, but {folder}/train holds no test and no train$"):
        make("image_folder", path=str(folder / "train"), divided=True).check()


def test_one_folder_of_classes_is_divided(make, folder: Path, preprocessing):
    splits = make("image_folder", path=str(folder / "train"), val_fraction=0.2, test_fraction=0.5).load(preprocessing)
    assert [len(images) for images in (splits.train, splits.val, splits.test)] == [7, 2, 9]
    assert torch.bincount(splits.test.labels).tolist() == [3, 3, 3]


def test_the_test_part_of_one_folder_does_not_follow_the_split_seed(make, folder: Path):
    first, second = (make("image_folder", path=str(folder / "train"), split_seed=seed)._divide()[1] for seed in (0, 1))
    assert torch.equal(first["test"].indices, second["test"].indices)


def test_pictures_lie_at_any_depth_and_other_files_are_passed_over(make, folder: Path, picture):
    deep = folder / "train" / "cat" / "2024" / "may"
    deep.mkdir(parents=True)
    picture(1).save(deep / "x.JPG", "JPEG")
    (folder / "train" / "cat" / "notes.txt").write_text("no picture")
    (folder / "train" / "cat" / "._1.png").write_text("left by a Mac")
    (folder / ".cache").mkdir()
    assert len(make("image_folder", path=str(folder)).open().train) == 19


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "__MACOSX", "@eaDir", "lost+found"])
def test_copies_that_programs_leave_are_neither_pictures_nor_classes(make, folder: Path, preprocessing, name: str):
    before = make("image_folder", path=str(folder)).load(preprocessing)
    for place in (folder, folder / "train", folder / "train" / "cat", folder / "test" / "dog"):
        shutil.copytree(folder / "train" / "cat", place / name)
    assert make("image_folder", path=str(folder)).load(preprocessing).fingerprint == before.fingerprint


def test_class_folders_that_link_to_each_other_keep_their_own_pictures(make, folder: Path, preprocessing):
    before = make("image_folder", path=str(folder)).load(preprocessing)
    (folder / "train" / "cat" / "more").symlink_to(folder / "train" / "dog")
    (folder / "train" / "dog" / "more").symlink_to(folder / "train" / "cat")
    (folder / "test" / "cat" / "all").symlink_to(folder)
    assert make("image_folder", path=str(folder)).load(preprocessing).fingerprint == before.fingerprint


@pytest.mark.parametrize("ending", ["webp", "jpg", "jpeg", "png", "gif", "bmp", "tiff", "ppm"])
def test_formats_are_read_by_what_they_are(make, folder: Path, preprocessing, picture, ending: str):
    for path in sorted(folder.rglob("*.png")):
        picture(int(path.stem)).save(path.with_suffix(f".{ending}"))
        if ending != "png":
            path.unlink()
    splits = make("image_folder", path=str(folder)).load(preprocessing)
    assert splits.test.pixels.shape == (6, 3, 16, 16)


def test_alpha_sixteen_bits_and_exif_rotation_reach_the_batch(make, folder: Path, preprocessing):
    cats = folder / "test" / "cat"
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(cats / "0.png")  # wholly transparent
    Image.fromarray(np.full((9, 9), 200 << 8, dtype=np.uint16)).save(cats / "1.png")
    half = Image.new("RGB", (16, 16), "black")
    half.paste("white", (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    half.save(cats / "2.jpg", exif=exif, quality=100)
    splits = make("image_folder", path=str(folder)).load(preprocessing)
    (cat_images,) = (
        images[labels == 1] for images, labels in splits.test.batches([torch.arange(7)], seed=None, workers=0)
    )
    assert (cat_images[0] == 255).all()
    assert (cat_images[1] == 200).all()
    assert cat_images[2, :, :4].float().mean() < 10
    assert cat_images[2, :, -4:].float().mean() > 245


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize("cache", [True, False])
def test_a_corrupt_image_is_named_and_the_others_counted(make, folder: Path, preprocessing, cache: bool):
    truncate(folder / "train" / "cat" / "3.png")
    (folder / "test" / "dog" / "1.png").write_text("this is no picture")
    with pytest.raises(ConfigError) as error:
        make("image_folder", path=str(folder), cache=cache, val_fraction=0).load(preprocessing)
    lines = str(error.value).splitlines()
    assert f"cannot read {folder}/train/cat/3.png" in lines[0]
    assert "and 1 more is corrupt" in lines[0]
    assert len(lines) == 2
    assert "data.on_corrupt=skip" in lines[1]


@pytest.mark.parametrize("cache", [True, False])
def test_corrupt_images_are_left_out_on_request(make, folder: Path, preprocessing, picture, caplog, cache: bool):
    whole = make("image_folder", path=str(folder), val_fraction=0).load(preprocessing)
    truncate(folder / "train" / "cat" / "3.png")
    with caplog.at_level(logging.WARNING, logger="peft_vision"):
        splits = make("image_folder", path=str(folder), cache=cache, val_fraction=0, on_corrupt="skip").load(
            preprocessing
        )
    assert splits.skipped == 1
    assert caplog.messages == [f"left out 1 corrupt images: {folder}/train/cat/3.png"]
    kept = torch.tensor([i for i in range(18) if i != 6 + 3])
    (got,) = splits.train.batches([torch.arange(17)], seed=None, workers=0)
    (expected,) = whole.train.batches([kept], seed=None, workers=0)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


def postscript(path: Path) -> None:
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n")


def nothing_at_the_end_of_a_link(path: Path) -> None:
    path.symlink_to("nowhere.png")


def a_line(path: Path) -> None:
    Image.new("1", (1, 5000)).save(
        path, "PNG"
    )  # few bytes, but with a short side of 256 pixels a long one of 1.3 million


def a_strange_texture(path: Path) -> None:
    Image.new("RGB", (8, 8)).save(path, "DDS")
    content = bytearray(path.read_bytes())
    content[80:84] = bytes(4)  # the kind of its pixels
    path.write_bytes(content)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize(
    "spoil", [postscript, os.mkfifo, Path.mkdir, a_device, a_line, a_strange_texture, nothing_at_the_end_of_a_link]
)
def test_what_is_no_picture_is_left_out_on_request_and_never_waited_for(
    make, folder: Path, preprocessing, spoil, cache: bool
):
    whole = make("image_folder", path=str(folder)).load(preprocessing)
    path = folder / "train" / "cat" / "x.jpg"
    spoil(path)
    assert refused(lambda: make("image_folder", path=str(folder), cache=cache).load(preprocessing), path)
    splits = make("image_folder", path=str(folder), cache=cache, on_corrupt="skip").load(preprocessing)
    assert splits.skipped == 1
    assert len(splits.train) + len(splits.val or ()) == len(whole.train) + len(whole.val or ())


def test_a_name_that_is_no_utf_8_is_a_name(make, folder: Path, preprocessing):
    before = make("image_folder", path=str(folder), val_fraction=0).load(preprocessing)
    cats = os.fsencode(folder / "train" / "cat")
    os.rename(cats + b"/5.png", cats + b"/caf\xe9.png")
    after = make("image_folder", path=str(folder), val_fraction=0).load(preprocessing)
    assert torch.equal(after.train.pixels, before.train.pixels)  # which it follows 4.png in, as 5.png did
    os.rename(cats + b"/caf\xe9.png", cats + b"/caf\xe8.png")
    other = make("image_folder", path=str(folder), val_fraction=0).load(preprocessing)
    assert len({before.fingerprint, after.fingerprint, other.fingerprint}) == 3
    (folder / "train" / "cat" / "caf\udce8.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=rf"^data: cannot read {folder}/train/cat/caf\\xe8.png "):
        make("image_folder", path=str(folder)).load(preprocessing)


def test_a_class_whose_name_is_no_utf_8_is_refused(make, folder: Path):
    (folder / "train" / "cat").rename(folder / "train" / "caf\udce9")
    with pytest.raises(
        ConfigError, match=r"^data.path: the name of folder '.*/train/caf\\udce9' is no UTF-8; rename it$"
    ):
        make("image_folder", path=str(folder)).open()


@pytest.mark.parametrize("kind", ["jpg", "webp", "gif", "bmp", "tiff"])
def test_verifying_finds_what_decoding_finds(make, folder: Path, preprocessing, picture, kind: str):
    path = folder / "train" / "cat" / f"damaged.{kind}"
    picture(0, width=64, height=64).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for cache in (True, False):
        with pytest.raises(ConfigError, match=f"cannot read .*damaged.{kind}"):
            make("image_folder", path=str(folder), cache=cache, val_fraction=0).load(preprocessing)


def test_a_class_whose_training_images_are_all_corrupt_is_refused(make, folder: Path, preprocessing):
    for path in (folder / "train" / "cat").iterdir():
        truncate(path)
    with pytest.raises(ConfigError, match="no training image of class 'cat'"):
        make("image_folder", path=str(folder), on_corrupt="skip", val_fraction=0).load(preprocessing)


def empty_class(folder: Path) -> str:
    for path in (folder / "train" / "cat").iterdir():
        path.unlink()
    return f"no image in class folder {folder}/train/cat"


def class_without_training(folder: Path) -> str:
    shutil.copytree(folder / "test" / "cat", folder / "test" / "cow")
    return f"class 'cow' of {folder}/test is not among the training classes"


def no_folder(folder: Path) -> str:
    shutil.rmtree(folder)
    return f"no folder {folder}"


def nothing(folder: Path) -> str:
    shutil.rmtree(folder)
    folder.mkdir()
    return f"no class folders in {folder}"


def loose_pictures(folder: Path) -> str:
    (folder / "train" / "cat" / "0.png").rename(folder / "0.png")
    shutil.rmtree(folder / "train")
    shutil.rmtree(folder / "test")
    return f"no class folders in {folder}"


def no_test(folder: Path) -> str:
    shutil.rmtree(folder / "test")
    return f"{folder} holds train; it must hold train, test"


def unknown_split(folder: Path) -> str:
    shutil.copytree(folder / "test", folder / "extra")
    return f"{folder} holds extra, test, train; it must hold train, test and perhaps val"


def one_class(folder: Path) -> str:
    for name, split in product(("cat", "dog"), ("train", "test")):
        shutil.rmtree(folder / split / name)
    return f"data: {folder} has one class, 'bird'; at least two are needed"


@pytest.mark.parametrize(
    "spoil",
    [
        empty_class,
        class_without_training,
        no_folder,
        nothing,
        loose_pictures,
        no_test,
        unknown_split,
        one_class,
    ],
)
def test_a_wrong_folder_is_refused_by_its_absolute_path_before_anything_loads(make, folder: Path, spoil, monkeypatch):
    monkeypatch.chdir(folder.parent)
    complaint = spoil(folder)
    with pytest.raises(ConfigError) as error:
        make("image_folder", path=folder.name).check()
    assert complaint in str(error.value)
    assert len(str(error.value).splitlines()) <= 2


def test_real_pictures_train_and_test(make, tmp_path: Path, preprocessing):
    if not SHARED.is_file():
        pytest.skip(f"no {SHARED}")
    with zipfile.ZipFile(SHARED) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".webp"))
        archive.extractall(tmp_path, names[::70])
    (path,) = (train.parent for train in tmp_path.rglob("train"))
    splits = make("image_folder", path=str(path), val_fraction=0.2).load(preprocessing)
    assert len(splits.classes) == 10
    assert len(splits.train) + len(splits.val) + len(splits.test) == len(names[::70])
    assert 60 < splits.train.pixels.float().mean() < 180
