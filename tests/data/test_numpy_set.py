"""`data=numpy`: images and labels in an archive or in a folder of arrays."""

import re

import numpy as np
import pytest
import torch

from peft_vision.core.config import ConfigError
from peft_vision.core.preprocessing import Preprocessing


def expecting(channels):
    return Preprocessing(16, (0.5,) * channels, (0.5,) * channels, "bicubic", 0.8)


def arrays(channels=5, kind=np.uint8, first=False, val=True):
    generator = np.random.default_rng(0)
    held = {}
    for split, count in (("train", 12), ("val", 4), ("test", 6))[:: 1 if val else 2]:
        shape = (count, 20, 18, channels) if channels else (count, 20, 18)
        images = generator.integers(0, np.iinfo(kind).max, shape, dtype=kind, endpoint=True)
        held[f"{split}_images"] = np.ascontiguousarray(np.moveaxis(images, -1, 1)) if first else images
        held[f"{split}_labels"] = 3 * (np.arange(count) % 2)[:, None].astype(np.uint8)
    return held


def written(tmp_path, held, packed):
    if packed:
        np.savez_compressed(tmp_path / "own.npz", **held)
        return tmp_path / "own.npz"
    (tmp_path / "own").mkdir()
    for name, values in held.items():
        np.save(tmp_path / "own" / f"{name}.npy", values)
    return tmp_path / "own"


def pixels(splits):
    return next(splits.train.batches([torch.arange(3)], seed=None, workers=0))[0]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("val", [True, False])
def test_splits_and_classes_are_those_of_the_arrays(make, tmp_path, packed, val):
    data = make("numpy", path=str(written(tmp_path, arrays(val=val), packed)))
    splits = data.load(expecting(5))
    assert splits.classes == ("0", "3")
    assert len(splits.test.labels) == 6
    assert len(splits.train.labels) == (12 if val else 11)
    assert pixels(splits).shape == (3, 5, 16, 16)
    assert data.fingerprint(skipped=0) == splits.fingerprint
    assert splits.provenance["encoding"] == "unencoded"
    assert any(value.startswith("sha256 ") for value in splits.provenance.values())


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_channels_may_be_first_and_folder_and_archive_are_the_same(make, tmp_path, kind):
    seen = []
    for number, (packed, first) in enumerate([(True, False), (False, False), (True, True), (False, True)]):
        (tmp_path / str(number)).mkdir()
        path = written(tmp_path / str(number), arrays(kind=kind, first=first), packed)
        seen.append(pixels(make("numpy", path=str(path), full_scale=50000).load(expecting(5))))
    assert all(torch.equal(other, seen[0]) for other in seen[1:])


@pytest.mark.parametrize("channels", [0, 1, 3])
def test_grey_and_coloured_images_are_shown_in_colours(make, tmp_path, channels):
    data = make("numpy", path=str(written(tmp_path, arrays(channels), True)), augment="rand_augment")
    assert pixels(data.load(expecting(3))).shape == (3, 3, 16, 16)


def test_names_of_classes_are_given_in_the_order_of_the_labels(make, tmp_path):
    path = str(written(tmp_path, arrays(), True))
    assert make("numpy", path=path, classes=list("abcd")).open().classes == ("a", "b", "c", "d")
    with pytest.raises(ConfigError, match=r"^data.path: train_labels in .* has 3, which is not among 0 to 2"):
        make("numpy", path=path, classes=list("abc")).open()
    with pytest.raises(ConfigError, match=r"^data.classes: a name comes twice"):
        make("numpy", path=path, classes=list("abca")).open()


def bad(fault):
    held = arrays()
    match fault:
        case "no test":
            del held["test_images"]
            return held, "has no test_images; it has test_labels, train_images, train_labels, ..."
        case "half a val":
            del held["val_images"]
            return held, "has no val_images; it has"
        case "floats":
            held["train_images"] = held["train_images"].astype(np.float32)
            return held, "holds train_images of float32 (12, 20, 18, 5), should be uint8 or uint16 (n, height, width, "
        case "flat":
            held["test_images"] = held["test_images"].reshape(6, -1)
            return held, "holds test_images of uint8 (6, 1800), should be"
        case "too few labels":
            held["test_labels"] = held["test_labels"][:-1]
            return held, "test_labels holds uint8 (5,), should be 6 whole numbers, one for each image of test_images"
        case "another label":
            held["test_labels"][0] = 7
            return held, "has 7, which is not among the training labels"
        case "one class":
            held["train_labels"][:] = 3
            held["val_labels"][:] = 3
            held["test_labels"][:] = 3
            return held, "has one class, '3'; at least two are needed"
    raise AssertionError(fault)


@pytest.mark.parametrize(
    "fault", ["no test", "half a val", "floats", "flat", "too few labels", "another label", "one class"]
)
@pytest.mark.parametrize("packed", [True, False])
def test_bad_arrays_are_refused_in_one_line(make, tmp_path, fault, packed):
    held, words = bad(fault)
    with pytest.raises(ConfigError, match=rf"^data(\.path)?: .*{re.escape(words)}") as caught:
        make("numpy", path=str(written(tmp_path, held, packed))).check()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("packed", [True, False])
def test_damaged_files_are_named(make, tmp_path, packed):
    path = written(tmp_path, arrays(), packed)
    torn = path if packed else path / "train_images.npy"
    torn.write_bytes(torn.read_bytes()[:-200])
    with pytest.raises(ConfigError, match=f"^data.path: cannot read {re.escape(str(torn))} "):
        make("numpy", path=str(path)).check()
    with pytest.raises(ConfigError, match=r"^data.path: no file or folder "):
        make("numpy", path=str(tmp_path / "none.npz")).check()


def test_channels_that_do_not_match_are_named(make, tmp_path):
    data = make("numpy", path=str(written(tmp_path, arrays(4), True)))
    with pytest.raises(ConfigError, match=r"^data: image \d+ has 4 channels, and the backbone takes 5 \("):
        data.load(expecting(5))
