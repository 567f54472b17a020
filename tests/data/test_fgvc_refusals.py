"""Copies of FGVC's data sets that are not as published: what is said, and that it is short."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from fgvc_miniatures import WRITERS
from peft_vision.core.config import ConfigError


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("published")
    for write in WRITERS.values():
        write(root, lambda key, width, height: Image.new("RGB", (width, height)))
    return root


@pytest.fixture
def root(published: Path, tmp_path: Path) -> Path:
    return shutil.copytree(published, tmp_path / "datasets")


Spoil = Callable[[Path], str]


def refused(make, root: Path, name: str, spoil: Spoil, **overrides) -> None:
    complaint = spoil(root)
    with pytest.raises(ConfigError) as error:
        make(f"fgvc/{name}", root=str(root), miniature=True, **overrides).check()
    assert complaint in str(error.value)
    assert len(str(error.value).splitlines()) <= 2


BIRDS = "CUB_200_2011"
SITE = "\nCUB-200-2011 is at data.caltech.edu/records/65de6-vp158"


def no_folder(root: Path) -> str:
    shutil.rmtree(root / BIRDS)
    return (
        f"data.root: {root} lacks 5 of 5 parts of CUB-200-2011: {BIRDS}/images.txt, {BIRDS}/image_class_labels.txt, "
        f"{BIRDS}/train_test_split.txt, ...{SITE}"
    )


def still_packed(root: Path) -> str:
    shutil.rmtree(root / BIRDS)
    (root / "CUB_200_2011.tgz").write_bytes(b"packed")
    wanted = root / BIRDS / "images.txt"
    return f"\nunpack {root}/CUB_200_2011.tgz, if that is it, to {wanted}"


def an_archive_for_a_folder(root: Path) -> str:
    shutil.rmtree(root)
    root.write_bytes(b"packed")
    return f"data.root: {root} is a file; unpack it, and give the folder that holds data sets"


def no_lists(root: Path) -> str:
    for name in ("classes", "images"):
        (root / BIRDS / f"{name}.txt").unlink()
    return f"data.root: {root} lacks 2 of 5 parts of CUB-200-2011: {BIRDS}/images.txt, {BIRDS}/classes.txt{SITE}"


def no_pictures(root: Path) -> str:
    shutil.rmtree(root / BIRDS / "images")
    return f"data.root: {root} lacks 1 of 5 parts of CUB-200-2011: {BIRDS}/images{SITE}"


def half_unpacked(root: Path) -> str:
    shutil.rmtree(root / BIRDS / "images" / "002.Laysan_Albatross")
    (root / BIRDS / "images" / "003.Sooty_Albatross" / "Sooty_Albatross_0002.jpg").unlink()
    lost = [f"{BIRDS}/images/002.Laysan_Albatross/Laysan_Albatross_000{number}.jpg" for number in range(3)]
    return (
        f"data.root: {root} lacks 7 of 18 images of images.txt, image_class_labels.txt, train_test_split.txt, "
        f"classes.txt: {', '.join(lost)}, ...{SITE}"
    )


def line(root: Path, file: str, number: int, text: str) -> str:
    path = root / BIRDS / file
    lines = path.read_text().splitlines()
    lines[number - 1] = text
    path.write_text("\n".join(lines))
    return f"data.root: {path}"


def one_word(root: Path) -> str:
    return f"{line(root, 'images.txt', 3, '3')} line 3 is '3', should be two words; fetch it again"


def blank(root: Path) -> str:
    return f"{line(root, 'images.txt', 2, '')} line 2 is ''"


def twice(root: Path) -> str:
    return f"{line(root, 'train_test_split.txt', 2, '1 1')} line 2 is '1 1', says again what a line before it does"


def no_text(root: Path) -> str:
    (root / BIRDS / "images.txt").write_bytes(b"\xff\xfe\x00")
    return f"data.root: cannot read {root}/{BIRDS}/images.txt"


def other_images(root: Path) -> str:
    found = line(root, "image_class_labels.txt", 18, "99 1")
    return f"{found} and {root}/{BIRDS}/images.txt differ in 2 images, first '18'; fetch both again"


def neither_training_nor_test(root: Path) -> str:
    return f"{line(root, 'train_test_split.txt', 5, '5 2')} has '2' for image '5', should be 1 (training) or 0"


def class_without_a_name(root: Path) -> str:
    line(root, "image_class_labels.txt", 5, "5 201")
    return f"data.root: {root}/{BIRDS}/classes.txt lacks the class 201 of {root}/{BIRDS}/image_class_labels.txt"


def class_that_is_no_number(root: Path) -> str:
    return f"{line(root, 'image_class_labels.txt', 5, '5 wren')} has the class 'wren', should be a number"


@pytest.mark.parametrize(
    "spoil",
    [
        no_folder,
        still_packed,
        an_archive_for_a_folder,
        no_lists,
        no_pictures,
        half_unpacked,
        one_word,
        blank,
        twice,
        no_text,
        other_images,
        neither_training_nor_test,
        class_without_a_name,
        class_that_is_no_number,
    ],
)
def test_birds_that_are_not_as_published(make, root: Path, spoil: Spoil):
    refused(make, root, "cub200", spoil)


def page_for_a_file(root: Path) -> str:
    (root / "flowers-102" / "setid.mat").write_text("<html>404</html>" * 20)
    return f"data.root: cannot read {root}/flowers-102/setid.mat (ValueError: Unknown mat file type"


def empty_file(root: Path) -> str:
    (root / "flowers-102" / "setid.mat").write_bytes(b"")
    return f"data.root: cannot read {root}/flowers-102/setid.mat (ValueError: Unknown mat file type"


def cut_short(root: Path) -> str:
    file = root / "flowers-102" / "setid.mat"
    file.write_bytes(file.read_bytes()[:150])
    return f"data.root: cannot read {file} ("


def other_variables(root: Path) -> str:
    savemat(root / "flowers-102" / "imagelabels.mat", {"label": np.ones((1, 24))})
    return f"data.root: {root}/flowers-102/imagelabels.mat has no variable 'labels'; it is not the published file"


def flower_of_no_class(root: Path) -> str:
    savemat(root / "flowers-102" / "imagelabels.mat", {"labels": np.full((1, 24), 103, dtype=np.uint8)})
    return f"{root}/flowers-102/imagelabels.mat has the label 103, should be 1 to 102, the names of the data set; fetch"


def flowers_without_labels(root: Path) -> str:
    savemat(root / "flowers-102" / "imagelabels.mat", {"labels": np.ones((1, 20), dtype=np.uint8)})
    return (
        f"data.root: {root}/flowers-102/setid.mat names the image 21, {root}/flowers-102/imagelabels.mat has 20 labels"
    )


def flowers_still_packed(root: Path) -> str:
    shutil.rmtree(root / "flowers-102" / "jpg")
    (root / "flowers-102" / "102flowers.tgz").write_bytes(b"packed")
    return (
        f"data.root: {root} lacks 1 of 3 parts of Oxford Flowers: flowers-102/jpg\n"
        f"unpack {root}/flowers-102/102flowers.tgz, if that is it, to {root}/flowers-102/jpg"
    )


@pytest.mark.parametrize(
    "spoil",
    [
        page_for_a_file,
        empty_file,
        cut_short,
        other_variables,
        flower_of_no_class,
        flowers_without_labels,
        flowers_still_packed,
    ],
)
def test_flowers_that_are_not_as_published(make, root: Path, spoil: Spoil):
    refused(make, root, "flowers102", spoil)


def test_dogs_without_a_label_each(make, root: Path):
    def spoil(root: Path) -> str:
        file = root / "stanford_dogs" / "test_list.mat"
        content = loadmat(file)
        savemat(file, {"file_list": content["file_list"], "labels": content["labels"][1:]})
        return f"data.root: {file} has 6 names and 5 labels; fetch it again"

    refused(make, root, "dogs", spoil)


def unlabelled_for_labelled(root: Path) -> str:
    folder = root / "stanford_cars"
    shutil.copy(folder / "devkit" / "cars_test_annos.mat", folder / "cars_test_annos_withlabels.mat")
    return f"data.root: the annotations in {folder}/cars_test_annos_withlabels.mat have no fname and class"


def no_labels_to_test_on(root: Path) -> str:
    (root / "stanford_cars" / "cars_test_annos_withlabels.mat").unlink()
    return (
        f"data.root: {root} lacks 1 of 5 parts of Stanford Cars: stanford_cars/cars_test_annos_withlabels.mat\n"
        "Stanford Cars is at a mirror, as told in github.com/pytorch/vision/issues/7545 (data.source=folders takes"
    )


def car_of_no_class(root: Path) -> str:
    file = root / "stanford_cars" / "devkit" / "cars_meta.mat"
    savemat(file, {"class_names": loadmat(file)["class_names"][:, :2]})
    return f"data.root: {root}/stanford_cars/devkit/cars_train_annos.mat has the label 3, should be 1 to 2"


@pytest.mark.parametrize("spoil", [unlabelled_for_labelled, no_labels_to_test_on, car_of_no_class])
def test_cars_that_are_not_as_published(make, root: Path, spoil: Spoil):
    refused(make, root, "cars", spoil)


PARTS = "parts of Stanford Cars: stanford_cars/train, stanford_cars/test"


def test_class_folders_that_are_not_there(make, root: Path):
    refused(make, root, "cars", lambda root: f"{root} lacks 2 of 2 {PARTS}\n", source="folders")
    for split in ("train", "test"):
        (root / "stanford_cars" / split).touch()
    refused(make, root, "cars", lambda root: f"{root} lacks 2 of 2 {PARTS}\n", source="folders")


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"source": "csv"}, r"data.source: got 'csv', should be 'release', 'json' or 'folders'"),
        ({"name": "cats"}, r"data.name: got 'cats', should be 'cub200', 'nabirds', 'flowers102', 'dogs' or 'cars'"),
        ({"resize": "squash"}, r"data: augment=crop_flip takes windows of what resize=crop makes"),
    ],
)
def test_wrong_values_are_refused_by_name(make, values: dict, complaint: str):
    with pytest.raises(ConfigError, match=complaint):
        make("fgvc/dogs", **values)
