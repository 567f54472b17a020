"""JSON splits of FGVC that do not divide: what is said, and that it is short."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from fgvc_miniatures import dogs, json_splits
from peft_vision.core.config import ConfigError

Spoil = Callable[[Path], str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    dogs(tmp_path, lambda key, width, height: Image.new("RGB", (width, height)))
    return tmp_path


DOGS = "stanford_dogs"
CHIHUAHUA = "n02085620-Chihuahua/n02085620_{}.jpg"


def divided(root: Path, **labels: object) -> Path:
    """train.json with these labels for the first, the second and so on; test.json with another picture."""
    train = {CHIHUAHUA.format(100 + i): label for i, label in enumerate(labels["train"])}
    json_splits(root / DOGS, train=train, test={CHIHUAHUA.format(105): labels.get("test", 0)})
    return root / DOGS / "train.json"


def no_json(root: Path) -> str:
    return f"data.root: {root} lacks 2 of 2 parts of Stanford Dogs: {DOGS}/train.json, {DOGS}/test.json\n"


def json_that_names_missing_files(root: Path) -> str:
    divided(root, train=[0, 0])
    json_splits(root / DOGS, test={CHIHUAHUA.format(999): 0, CHIHUAHUA.format(998): 1, CHIHUAHUA.format(105): 0})
    return (
        f"data.root: {root} lacks 2 of 5 images of train.json, test.json: "
        f"{DOGS}/Images/{CHIHUAHUA.format(998)}, {DOGS}/Images/{CHIHUAHUA.format(999)}\n"
    )


def no_object(root: Path) -> str:
    file = divided(root, train=[0])
    file.write_text("[1, 2]")
    return f"data.source: {file} should be one object with a label for each picture's path"


def nothing_in_it(root: Path) -> str:
    file = divided(root, train=[0])
    file.write_text("{}")
    return f"data.source: {file} should be one object with a label for each picture's path"


def broken(root: Path) -> str:
    file = divided(root, train=[0])
    file.write_text('{"a.jpg": 1')
    return f"data.source: cannot read {file} (no JSON: Expecting ',' delimiter"


def of_two_kinds(root: Path) -> str:
    divided(root, train=[0, 1], test="dog")
    return f"data.source: some labels of {root}/{DOGS} (train.json, test.json) are integers and some are strings"


def in_two_splits(root: Path) -> str:
    divided(root, train=[0, 0])
    json_splits(root / DOGS, val={CHIHUAHUA.format(101): 0})
    return f"data.source: train and val of {root}/{DOGS} both name 1 images: Images/{CHIHUAHUA.format(101)}"


def no_label(label: object) -> Spoil:
    def spoil(root: Path) -> str:
        file = divided(root, train=[0, label])
        return (
            f"data.source: {file} labels '{CHIHUAHUA.format(101)}' with {json.dumps(label)}, "
            "should be an integer or a string"
        )

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        no_json,
        json_that_names_missing_files,
        no_object,
        nothing_in_it,
        broken,
        of_two_kinds,
        in_two_splits,
        *(no_label(label) for label in (True, 1.5, None, [1], "", {"class": 1})),
    ],
)
def test_json_that_does_not_divide(make, root: Path, spoil: Spoil):
    complaint = spoil(root)
    with pytest.raises(ConfigError) as error:
        make("fgvc/dogs", root=str(root), miniature=True, source="json").check()
    assert complaint in str(error.value)
    assert len(str(error.value).splitlines()) <= 2
