"""Published sets of pictures with masks, in the folders and with the values that they come with."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import OxfordIIITPet, VOCSegmentation

from peft_vision.core.config import ConfigError
from peft_vision.data.mask_layouts import LAYOUTS


def pair(picture: Path, mask: Path, values: list[int]) -> None:
    """A picture and its mask, which holds these values from left to right."""
    indices = np.repeat(np.array(values, dtype=np.uint8), 4)[None].repeat(8, axis=0)
    for path in (picture, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (indices.shape[1], 8), (10, 20, 30)).save(picture)
    image = Image.fromarray(indices, mode="P")
    image.putpalette(list(range(256)) * 3)
    image.save(mask)


def ade20k(root: Path) -> None:
    root = root / "ADEChallengeData2016"
    for split, letters, count in (("training", "train", 4), ("validation", "val", 2)):
        for number in range(count):
            name = f"ADE_{letters}_{number:08d}"
            pair(root / f"images/{split}/{name}.jpg", root / f"annotations/{split}/{name}.png", [0, 1, 150])
    names = [
        "wall",
        "building, edifice",
        "screen",
        *(f"thing {number}" for number in range(3, 149)),
        "screen, crt screen",
    ]
    lines = [f"{place + 1}\t0.1\t11664\t1172\t1\t{name}" for place, name in enumerate(names)]
    (root / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tStuff\tName", *lines]))


def voc(root: Path) -> None:
    root = root / "VOCdevkit" / "VOC2012"
    lists = {"train": ["2007_000032", "2007_000039"], "val": ["2007_000033"]}
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, names in lists.items():
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join([*names, ""]))
        for name in names:
            pair(root / f"JPEGImages/{name}.jpg", root / f"SegmentationClass/{name}.png", [0, 20, 255])
    Image.new("RGB", (4, 4)).save(root / "JPEGImages" / "2012_000001.jpg")  # most pictures of VOC have no mask


def cityscapes(root: Path) -> None:
    for split, city in (("train", "aachen"), ("train", "bremen"), ("val", "frankfurt"), ("test", "berlin")):
        name = f"{city}_000000_000019"
        masks = root / "gtFine" / split / city
        pair(
            root / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png",
            masks / f"{name}_gtFine_labelIds.png",
            [4, 7, 33],
        )
        Image.new("RGBA", (12, 8)).save(masks / f"{name}_gtFine_color.png")
        (masks / f"{name}_gtFine_polygons.json").write_text("{}")


def camvid(root: Path) -> None:
    for split in ("train", "val", "test"):
        pair(root / f"CamVid/{split}/{split}.png", root / f"CamVid/{split}annot/{split}.png", [11, 0, 10])


def pets(root: Path) -> None:
    root = root / "oxford-iiit-pet"
    for split, name in (("trainval", "Abyssinian_1"), ("test", "beagle_12")):
        pair(root / f"images/{name}.jpg", root / f"annotations/trimaps/{name}.png", [3, 1, 2])
        (root / f"annotations/{split}.txt").write_text(f"{name} 1 1 1\n")
        shutil.copy(root / f"annotations/trimaps/{name}.png", root / f"annotations/trimaps/._{name}.png")


WRITERS = {"ade20k": ade20k, "voc": voc, "cityscapes": cityscapes, "camvid": camvid, "pets": pets}
# images of each split, number of classes, and the classes that the values of the masks mean
EXPECTED = {
    "ade20k": ((4, None, 2), 150, [255, 0, 149]),
    "voc": ((2, None, 1), 21, [0, 20, 255]),
    "cityscapes": ((2, None, 1), 19, [255, 0, 18]),
    "camvid": ((1, 1, 1), 11, [255, 0, 10]),
    "pets": ((1, None, 1), 2, [255, 0, 1]),
}

MASKS = {
    "ade20k": "annotations/training/*.png",
    "voc": "SegmentationClass/*.png",
    "cityscapes": "gtFine/train/*/*_labelIds.png",
    "camvid": "trainannot/*.png",
    "pets": "trimaps/A*.png",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_published_set_is_read_as_it_was_published(make, preprocessing, tmp_path: Path, layout: str):
    WRITERS[layout](tmp_path)
    counts, classes, values = EXPECTED[layout]
    data = make("masks", path=str(tmp_path), layout=layout, val_fraction=0)
    sets = data.open()
    assert tuple(part and len(part) for part in (sets.train, sets.val, sets.test)) == counts
    assert (len(sets.classes), len(set(sets.classes))) == (classes, classes)
    splits = data.load(preprocessing)
    for images in splits.parts().values():
        assert images.whole_mask(0)[0, ::4].tolist() == values
    assert LAYOUTS[layout].remark in splits.source


def test_names_of_ade20k_are_the_first_of_its_synonyms_and_told_apart(make, tmp_path: Path):
    ade20k(tmp_path)
    classes = make("masks", path=str(tmp_path), layout="ade20k").open().classes
    assert classes[:3] + classes[-1:] == ("wall", "building", "screen 3", "screen 150")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_a_published_set_lacks_is_named_with_where_it_is_from(make, tmp_path: Path, layout: str):
    with pytest.raises(ConfigError) as error:
        make("masks", path=str(tmp_path), layout=layout).check()
    assert LAYOUTS[layout].source in str(error.value)
    WRITERS[layout](tmp_path)
    found = min(tmp_path.rglob(MASKS[layout]))
    found.unlink()
    with pytest.raises(ConfigError, match=found.name if layout in ("voc", "pets") else "pictures have no mask"):
        make("masks", path=str(tmp_path), layout=layout).check()


def test_lists_and_tables_of_other_content_are_refused(make, tmp_path: Path):
    voc(tmp_path / "a")
    names = tmp_path / "a" / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "train.txt"
    for content, said in (("", "names no picture"), ("../x\n", "no name of a picture"), ("a\na\n", "a second time")):
        names.write_text(content)
        with pytest.raises(ConfigError, match=said):
            make("masks", path=str(tmp_path / "a"), layout="voc").check()
    ade20k(tmp_path / "b")
    table = tmp_path / "b" / "ADEChallengeData2016" / "objectInfo150.txt"
    lines = table.read_text().splitlines()
    for content, said in (
        (lines[:-1], "names 149 classes, should be 150"),
        ([*lines[:-1], "150\t\t , "], "line 151 is"),
    ):
        table.write_text("\n".join(content))
        with pytest.raises(ConfigError, match=said):
            make("masks", path=str(tmp_path / "b"), layout="ade20k").check()


@pytest.mark.parametrize(
    ("name", "layout", "of_torchvision"),
    [
        ("voc_masks", "voc", lambda root: VOCSegmentation(root, image_set="train")),
        ("pets_masks", "pets", lambda root: OxfordIIITPet(root, target_types="segmentation")),
    ],
)
def test_torchvisions_own_folders_are_read_as_torchvision_reads_them(
    make, preprocessing, tmp_path: Path, name, layout, of_torchvision
):
    WRITERS[layout](tmp_path)
    data = make(name, root=str(tmp_path), download=False, val_fraction=0)
    train = data.load(preprocessing).train
    same = make("masks", path=str(tmp_path), layout=layout, val_fraction=0)
    assert data.open().classes == same.open().classes
    values = LAYOUTS[layout].code(tmp_path, "data").values
    for place, (picture, mask) in enumerate(of_torchvision(str(tmp_path))):
        assert train.part.pictures.read(place).tobytes() == picture.tobytes()
        assert np.array_equal(train.whole_mask(place), np.vectorize(values.get)(np.asarray(mask)))
    with pytest.raises(ConfigError, match=r"augment=rand_augment does not move masks; none, crop_flip"):
        make(name, augment="rand_augment")
    gone = min(tmp_path.rglob(MASKS[layout]))
    gone.unlink()
    with pytest.raises(ConfigError) as error:
        make(name, root=str(tmp_path), download=False).open()
    first, second = str(error.value).splitlines()
    assert first.startswith(f"data: {name} in {tmp_path} is damaged: ")
    assert gone.name in first
    assert second.startswith("remove ")
    assert "start again with data.download=true" in second
