"""The five data sets of FGVC, from every layout they are found in."""

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from fgvc_miniatures import BREEDS, MODELS, WRITERS, car_folders, json_splits
from peft_vision.core.config import ConfigError, hashed_fields
from peft_vision.data.benchmark import COLLECTIONS
from peft_vision.data.fgvc.benchmark import FGVC
from peft_vision.data.pictures import Labelled
from peft_vision.data.splits import LabelledSets


@pytest.fixture(scope="module")
def drawn_once(tmp_path_factory):
    """Pictures need not differ here, but for their shapes."""
    picture = Image.effect_noise((20, 12), 60).convert("RGB")
    return lambda key, width, height: picture.crop((0, 0, 14 + key % 5, 12))


@pytest.fixture(scope="module")
def published(tmp_path_factory, drawn_once) -> Path:
    root = tmp_path_factory.mktemp("published")
    for write in WRITERS.values():
        write(root, drawn_once)
    return root


@pytest.fixture
def root(published: Path, tmp_path: Path) -> Path:
    """One to spoil."""
    return shutil.copytree(published, tmp_path / "datasets")


def opened(make, root: Path, name: str, **overrides) -> LabelledSets:
    return make(f"fgvc/{name}", root=str(root), miniature=True, **overrides).open()


def labels(part: Labelled) -> list[int]:
    return part.labels.tolist()


def paths(part: Labelled) -> list[str]:
    return [part.pictures.paths[index] for index in part.indices]


def pairs(part: Labelled) -> dict[str, int]:
    return dict(zip(paths(part), labels(part), strict=True))


EXPECTED = {
    "cub200": (
        ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross"),
        [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2],
        [0, 0, 1, 1, 2, 2],
    ),
    "nabirds": (
        ("Wood Duck (Male)", "House Wren (817)", "House Wren (1010)"),
        [2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1],
        [2, 0, 1, 2, 0, 1],
    ),
    "flowers102": (
        ("pink primrose", "hard-leaved pocket orchid", "blackberry lily"),
        [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2],
        [0, 1, 2, 0, 1, 2],
    ),
    "dogs": (BREEDS, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2], [0, 0, 1, 1, 2, 2]),
    "cars": (MODELS, [2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1], [1, 2, 0, 1, 2, 0]),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_release_is_read_by_its_own_lists(make, published: Path, name: str):
    sets = opened(make, published, name)
    assert (sets.classes, labels(sets.train), labels(sets.test)) == EXPECTED[name]
    assert (sets.val is not None) == (name == "flowers102")
    assert sets.group == "fgvc"
    assert set(paths(sets.train)).isdisjoint(paths(sets.test))
    for part in (sets.train, sets.test):
        assert all((part.pictures.root / path).is_file() for path in paths(part))


def test_the_pictures_are_those_that_the_lists_name(make, published: Path):
    birds, dogs, cars, flowers = (opened(make, published, name) for name in ("cub200", "dogs", "cars", "flowers102"))
    assert paths(birds.test)[:2] == [
        f"images/001.Black_footed_Albatross/Black_footed_Albatross_000{i}.jpg" for i in (0, 3)
    ]
    assert paths(dogs.test)[0] == "Images/n02085620-Chihuahua/n02085620_104.jpg"
    assert (paths(cars.train)[0], paths(cars.test)[1]) == ("cars_train/00001.jpg", "cars_test/00002.jpg")
    assert paths(flowers.test) == [f"jpg/image_0000{number}.jpg" for number in range(1, 7)]
    assert paths(flowers.train)[0] == "jpg/image_00013.jpg"
    assert (labels(flowers.val), paths(flowers.val)[0]) == ([0, 1, 2, 0, 1, 2], "jpg/image_00007.jpg")


def test_labels_of_the_cars_to_test_on_may_lie_in_the_devkit(make, root: Path):
    folder = root / "stanford_cars"
    (folder / "cars_test_annos_withlabels.mat").rename(folder / "devkit" / "cars_test_annos_withlabels.mat")
    assert labels(opened(make, root, "cars").test) == EXPECTED["cars"][2]


def test_a_mirror_of_the_cars_is_read_by_its_folders(make, tmp_path: Path, drawn_once):
    car_folders(tmp_path, drawn_once)
    sets = opened(make, tmp_path, "cars", source="folders")
    assert sets.classes == (
        "AM General Hummer SUV 2000",
        "Ram C-V Cargo Van Minivan 2012",
        "smart fortwo Convertible 2012",
    )
    assert (labels(sets.train), labels(sets.test)) == ([0] * 4 + [1] * 4 + [2] * 4, [0, 0, 1, 1, 2, 2])
    assert paths(sets.test)[0] == "test/AM General Hummer SUV 2000/00012.jpg"
    assert sets.provenance["source"] == "folders"
    for name, other in (("train", "Training"), ("test", "valid"), ("valid", "Test")):
        (tmp_path / "stanford_cars" / name).rename(tmp_path / "stanford_cars" / other)
    shutil.copytree(tmp_path / "stanford_cars" / "Test", tmp_path / "stanford_cars" / "valid")
    again = opened(make, tmp_path, "cars", source="folders")
    assert (labels(again.train), labels(again.test)) == (labels(sets.train), labels(sets.test))
    assert paths(again.val)[0] == "valid/AM General Hummer SUV 2000/00012.jpg"


PREFIX = {"cub200": "images/", "nabirds": "images/", "flowers102": "", "dogs": "Images/", "cars": ""}


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("name", WRITERS)
def test_splits_in_json_are_read_with_paths_from_either_folder(make, root: Path, name: str, inside: bool):
    release = opened(make, root, name)
    train, test = (
        {path.removeprefix(PREFIX[name] if inside else ""): label for path, label in pairs(part).items()}
        for part in (release.train, release.test)
    )
    val = {path: train.pop(path) for path in list(train)[:2]}
    json_splits(root / COLLECTIONS[name].folder, train=train, val=val, test=test)
    sets = opened(make, root, name, source="json")
    assert sets.classes == ("0", "1", "2")
    assert (labels(sets.val), labels(sets.train)) == (labels(release.train)[:2], labels(release.train)[2:])
    assert (paths(sets.test), labels(sets.test)) == (paths(release.test), labels(release.test))
    assert sets.remark == "validation split of val.json; miniature: proves nothing about accuracy"


@pytest.mark.parametrize(
    ("names", "classes"),
    [((7, 10, -3), ("-3", "7", "10")), (("wren", "10", "7"), ("10", "7", "wren"))],
)
def test_labels_in_json_are_any_integers_or_strings(make, root: Path, names, classes: tuple[str, ...]):
    release = opened(make, root, "dogs")
    train, test = (
        {path: names[label] for path, label in pairs(part).items()} for part in (release.train, release.test)
    )
    json_splits(root / "stanford_dogs", train=train, test=test)
    sets = opened(make, root, "dogs", source="json")
    assert sets.classes == classes
    assert labels(sets.train) == [classes.index(str(names[label])) for label in release.train.labels]
    assert sets.val is None


def divided_in_json(make, root: Path, *, leave_out: str, label: int) -> None:
    """Without the images of a class in one of the splits."""
    release = opened(make, root, "dogs")
    splits = {"train": pairs(release.train), "test": pairs(release.test)}
    splits["val"] = {path: splits["train"].pop(path) for path in list(splits["train"])[::4]}
    splits[leave_out] = {path: number for path, number in splits[leave_out].items() if number != label}
    json_splits(root / "stanford_dogs", **splits)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_without_a_class_keeps_the_ids_and_a_warning_names_it(
    make, root: Path, preprocessing, caplog, split: str
):
    divided_in_json(make, root, leave_out=split, label=1)
    data = make("fgvc/dogs", root=str(root), miniature=True, source="json")
    sets = data.open()
    assert sets.classes == ("0", "1", "2")
    assert set(labels(getattr(sets, split))) == {0, 2}
    assert set(labels(sets.train)) == {0, 1, 2}
    caplog.clear()
    data.load(preprocessing)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"data      no {split} image of 1 classes: 1"
    ]


def test_a_class_that_cannot_be_trained_on_is_refused_by_name(make, root: Path):
    divided_in_json(make, root, leave_out="train", label=1)
    with pytest.raises(ConfigError, match=r"^data: no training image of class '1'$"):
        make("fgvc/dogs", root=str(root), miniature=True, source="json").check()


def test_where_all_this_is_from_is_told(make, preprocessing, published: Path):
    found = make("fgvc/cub200", root=str(published), miniature=True).load(preprocessing).provenance
    files = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
    sums = {name: hashlib.sha256((published / "CUB_200_2011" / name).read_bytes()).hexdigest() for name in files}
    assert found["source"] == "release"
    assert {name: found[name] for name in files} == {name: f"sha256 {digest}" for name, digest in sums.items()}
    assert {file.name for file in opened(make, published, "flowers102").files} == {"imagelabels.mat", "setid.mat"}
    assert {file.name for file in opened(make, published, "dogs").files} == {"train_list.mat", "test_list.mat"}
    cars = {"cars_train_annos.mat", "cars_test_annos_withlabels.mat", "cars_meta.mat"}
    assert {file.name for file in opened(make, published, "cars").files} == cars


DRAWN = "validation part drawn by peft-vision (not an official split)"
MINIATURE = "miniature: proves nothing about accuracy"


@pytest.mark.parametrize(
    ("name", "options", "remark"),
    [
        ("cub200", {}, f"{DRAWN}; {MINIATURE}"),
        ("cub200", {"stage": "tune"}, f"{DRAWN}; {MINIATURE}"),
        ("cub200", {"stage": "final"}, MINIATURE),
        ("cub200", {"val_fraction": 0}, MINIATURE),
        ("flowers102", {}, f"official validation split; {MINIATURE}"),
    ],
)
def test_a_validation_part_of_ours_is_told(make, published: Path, name: str, options: dict, remark: str):
    assert opened(make, published, name, **options).remark == remark


def test_a_tenth_validates_where_there_is_no_validation_split(make, published: Path, preprocessing):
    data = make("fgvc/cub200", root=str(published), miniature=True)
    splits = data.load(preprocessing)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (11, 1, 6)
    assert splits.source == (
        f"CUB-200-2011 (release): 11 train + 1 val + 6 test images of 3 classes; {DRAWN}; {MINIATURE}"
    )
    assert (splits.group, splits.provenance["source"]) == ("fgvc", "release")


def test_images_are_shown_as_the_field_does(make, published: Path, preprocessing):
    data = make("fgvc/cub200", root=str(published), miniature=True)
    assert (data.augment, data.resize, data.adjusted(preprocessing).crop) == ("crop_flip", "crop", 224 / 256)
    splits = data.load(preprocessing)
    assert {min(whole.shape[1:]) for whole in splits.train.pixels.arrays} == {18}  # 16 / 0.875
    assert splits.test.pixels.shape == (6, 3, 16, 16)
    (first, _), (second, _) = (next(splits.train.batches([torch.arange(11)], seed=s, workers=0)) for s in (0, 1))
    assert first.shape == (11, 3, 16, 16)
    assert not torch.equal(first, second)


def test_few_shots_of_fgvc(make, published: Path):
    parts = make("fgvc/cub200", root=str(published), miniature=True, shots=2).parts()
    assert list(parts) == ["train", "val", "test"]
    assert all(torch.bincount(part.labels).tolist() == [2, 2, 2] for part in parts.values())


def test_numbers_that_are_not_the_benchmarks_are_refused(make, published: Path):
    with pytest.raises(ConfigError) as error:
        make("fgvc/cub200", root=str(published)).check()
    assert str(error.value) == (
        "data.root: this copy of CUB-200-2011 has 3 classes and 12 + 6 images (train and validation + test), "
        "the benchmark's has 200 and 5,994 + 5,794\n"
        "fetch it anew, or data.miniature=true rehearses with what there is"
    )


def test_the_benchmarks_numbers_are_the_published_ones():
    numbers = {
        name: (collection.num_classes, collection.train, collection.val, collection.test)
        for name, collection in COLLECTIONS.items()
    }
    assert numbers == {
        "cub200": (200, 5994, 0, 5794),
        "nabirds": (555, 23929, 0, 24633),
        "flowers102": (102, 1020, 1020, 6149),
        "dogs": (120, 12000, 0, 8580),
        "cars": (196, 8144, 0, 8041),
    }


def test_where_a_copy_lies_is_no_part_of_the_identity():
    assert hashed_fields(FGVC, {"name": "dogs", "root": "x", "source": "json", "miniature": False}) == {
        "name": "dogs",
        "source": "json",
    }
    assert "miniature" in hashed_fields(FGVC, {"miniature": True})
