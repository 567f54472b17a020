import numpy as np
import pytest
import torch

from peft_vision.data.arrays import Arrays
from peft_vision.data.pictures import Labelled, labelled
from peft_vision.data.vtab.choice import first_thousand, percent, tfds_order


def numbered(count: int) -> Labelled:
    return labelled(Arrays(np.zeros((count, 1, 1, 3), np.uint8)), np.arange(count))


def test_cifar_10_begins_as_its_published_ids_say():
    # train_16399, train_01680, train_47917 and so on are the ids of tfds.load("cifar10", split="train")
    first = tfds_order(numbered(50_000), "train", range(50_000)).labels[:6]
    assert first.tolist() == [16399, 1680, 47917, 17307, 27051, 48736]


def test_file_names_are_keys_too():
    # md5("trainSphynx_158.jpg") begins with 0009, md5("trainpug_1.jpg") with 2268
    names = ["pug_1.jpg", "Sphynx_158.jpg"]
    assert tfds_order(numbered(2), "train", names).labels.tolist() == [1, 0]


def test_each_split_has_an_order_of_its_own():
    train, test = (tfds_order(numbered(100), split, range(100)).labels for split in ("train", "test"))
    assert sorted(train.tolist()) == sorted(test.tolist()) == list(range(100))
    assert not torch.equal(train, test)


def test_a_key_is_wanted_for_every_image():
    with pytest.raises(ValueError, match="2 keys for 3 images"):
        tfds_order(numbered(3), "train", ["a", "b"])


@pytest.mark.parametrize(
    ("count", "start", "end", "slice_"),
    [
        (3680, 0, 80, (0, 2944)),  # Pets
        (3680, 80, 100, (2944, 3680)),
        (73_257, 90, 100, (65_931, 73_257)),  # SVHN
        (737_280, 80, 90, (589_824, 663_552)),  # dSprites
        (24_300, 50, 100, (12_150, 24_300)),  # SmallNORB
        (27_000, 60, 80, (16_200, 21_600)),  # EuroSAT
    ],
)
def test_percents_are_the_slices_of_the_benchmark(count: int, start: int, end: int, slice_: tuple[int, int]):
    labels = percent(numbered(count), start, end).labels
    assert (int(labels[0]), int(labels[-1]) + 1) == slice_


def test_the_first_800_and_200_are_chosen():
    release = first_thousand(numbered(900), numbered(300), numbered(5), classes=["a"], files=[])
    assert release.train.labels.tolist() == list(range(800))
    assert release.val.labels.tolist() == list(range(200))
    assert len(release.test) == 5
    assert (release.chosen, release.remark) == (True, "")
