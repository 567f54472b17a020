"""Inputs on a device, for which the CPU stands in: batches and trained weights are those of the usual path."""

import itertools
import json
import weakref

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from command import SMOKE, call, run_folder
from peft_vision.core.device_memory import DeviceRoom
from peft_vision.core.preprocessing import Size, sides_of
from peft_vision.data.arrays import Arrays
from peft_vision.data.decode import Geometry
from peft_vision.data.device_images import DeviceImages, device_bytes
from peft_vision.data.images import Images, UncroppedImages, Undecoded
from peft_vision.models.observations import FeatureTable, Observed, Views
from peft_vision.training.inputs import Inputs, released

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
COUNT = 37
LABELS = torch.arange(COUNT) % 4
BATCHES = [*torch.randperm(COUNT).split(8), torch.tensor([], dtype=torch.int64)]


def squares(augment: str, size: Size = 16, channels: int = 3) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (COUNT, channels, *sides_of(size)), dtype=torch.uint8, generator=generator)
    return Images(LABELS, pixels, augment)


def wholes(channels: int = 3, size: Size = 16) -> Images:
    random = np.random.default_rng(0)
    shapes = [
        (channels, *sides)
        for sides in itertools.islice(itertools.cycle([(16, 16), (16, 23), (31, 16), (17, 18)]), COUNT)
    ]
    arrays = [random.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    return Images(LABELS, UncroppedImages(arrays, size), "crop_flip")


def observed(views: int = 2) -> Observed:
    generator = torch.Generator().manual_seed(0)
    rows = {"features": torch.randn(views * COUNT, 5, generator=generator)}
    return Observed(LABELS, {**rows, "contexts": torch.randn(views * COUNT, 2, 3, 4, generator=generator).half()})


SOURCES = {
    "none": lambda: squares("none"),
    "flip_crop": lambda: squares("flip_crop"),
    "flip_crop without a margin": lambda: squares("flip_crop", size=7),
    "flip_crop of one channel": lambda: squares("flip_crop", channels=1),
    "flip_crop of upright pictures": lambda: squares("flip_crop", size=(25, 16)),
    "flip_crop of wide pictures": lambda: squares("flip_crop", size=(7, 33)),
    "crop_flip": wholes,
    "crop_flip to wide pictures": lambda: wholes(size=(9, 15)),
    "crop_flip of one channel": lambda: wholes(channels=1),
    "observed": observed,
    "table": lambda: FeatureTable(LABELS, torch.randn(COUNT, 5, generator=torch.Generator().manual_seed(0))),
}


def tensors(seen: object) -> list[torch.Tensor]:
    return [seen] if isinstance(seen, torch.Tensor) else [seen.features, *seen.contexts]


def room(device: str = "cpu", gib: float = 1.0) -> DeviceRoom:
    return DeviceRoom(torch.device(device), {"data": gib, "features": gib})


def same(first, second) -> bool:
    pairs = zip(first, second, strict=True)
    return all(
        torch.equal(labels.cpu(), others.cpu())
        and all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(tensors(seen), tensors(other), strict=True))
        for (seen, labels), (other, others) in pairs
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", [None, 0, 7])
@pytest.mark.parametrize("name", SOURCES)
def test_a_batch_on_the_device_is_bit_for_bit_that_of_the_cpu(name, seed, device):
    source, inputs = SOURCES[name](), Inputs(SOURCES[name](), room(device))
    assert inputs.lie_on_device
    expected = [*source.batches(BATCHES, seed=seed, workers=0)]
    found = [*inputs.batches(BATCHES, seed=seed, workers=0)]
    assert same(found, expected)
    assert {value.device.type for seen, labels in found for value in (*tensors(seen), labels)} == {device}


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("name", SOURCES)
def test_what_does_not_fit_comes_batch_by_batch_and_is_the_same(name, seed):
    inputs = Inputs(SOURCES[name](), room(gib=0))
    assert not inputs.lie_on_device
    assert same(inputs.batches(BATCHES, seed=seed, workers=0), SOURCES[name]().batches(BATCHES, seed=seed, workers=0))
    assert inputs.record() == {"lie_on": "host", "bytes_per_batch": 0.0}  # nothing moves to a CPU


@pytest.mark.parametrize(("name", "numbers"), [("none", 1), ("flip_crop", 4), ("crop_flip", 4), ("table", 1)])
def test_indices_and_draws_are_all_that_moves(name, numbers):
    inputs = Inputs(SOURCES[name](), room())
    assert len([*inputs.batches(BATCHES, seed=1, workers=0)]) == len(BATCHES)
    assert inputs.record() == {"lie_on": "device", "bytes_per_batch": COUNT * 8 * numbers / len(BATCHES)}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("after", [0, 1, 3])
def test_inputs_that_are_released_go_on_where_they_were(name, after):
    inputs = Inputs(SOURCES[name](), room())
    found = []
    batches = inputs.batches(BATCHES, seed=2, workers=0)
    if after == 0:
        assert released(inputs, None)
    for pair in batches:
        found.append(pair)
        if len(found) == after:
            assert released(None, inputs)
            assert not released(inputs, None)
    assert same(found, SOURCES[name]().batches(BATCHES, seed=2, workers=0))
    assert not inputs.lie_on_device
    assert inputs.num_batches == len(BATCHES)


@pytest.mark.parametrize("after", [0, 2, 99])
@pytest.mark.parametrize("gib", [0.0, 1.0])
def test_every_image_is_counted_once(after, gib):
    images = squares("flip_crop")
    inputs = Inputs(images, room(gib=gib))
    for number, _ in enumerate(inputs.batches(BATCHES, seed=2, workers=0)):
        if number == after:
            inputs.release()
    assert images.handed_out == COUNT


def test_what_the_cpu_makes_stays_there():
    noise = np.zeros((COUNT, 16, 16, 3), dtype=np.uint8)
    undecoded = Images(
        LABELS, Undecoded(Arrays(noise), torch.arange(COUNT), Geometry(16, "squash", 1.0, "bicubic")), "none"
    )
    for source in (undecoded, squares("rand_augment"), squares("an.own_function"), Views(squares("flip_crop"), 2)):
        assert not Inputs(source, room()).lie_on_device
    assert device_bytes(wholes()) == sum(whole.nbytes for whole in wholes().pixels.arrays)


def test_train_and_val_share_the_limit():
    images = squares("none")
    limit = room(gib=1.5 * device_bytes(images) / 2**30)
    assert [Inputs(images, limit).lie_on_device for _ in range(2)] == [True, False]


def test_a_device_that_is_full_after_all_gets_them_batch_by_batch(monkeypatch):
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(DeviceImages, "__init__", full)
    monkeypatch.setattr(torch, "get_device_module", lambda _: torch.cuda)
    assert not Inputs(squares("none"), room()).lie_on_device


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=lora", "data.augment=flip_crop"),
        ("method=vqt",),
        ("method=linear", "optimizer=sgd"),
    ],
    ids=lambda overrides: overrides[0],
)
def test_a_run_ends_in_the_same_bits_wherever_its_inputs_lie(overrides, tmp_path):
    results, adapters = [], []
    for gib in ("auto", "1"):
        folder = tmp_path / gib
        folder.mkdir()
        store = f"features.folder={folder}/store"
        where = (store, f"data.device_memory_gib={gib}", f"features.device_memory_gib={gib}")
        ended = call(*SMOKE, *overrides, *where, "trainer.epochs=2", cwd=folder)
        assert ended.code == 0, ended
        run = run_folder(folder / "runs")
        results.append(json.loads((run / "result.json").read_text()))
        adapters.append(load_file(run / "adapter.safetensors"))
    assert adapters[0].keys() == adapters[1].keys()
    assert all(torch.equal(tensor, adapters[1][name]) for name, tensor in adapters[0].items())
    assert results[0]["metrics"] == results[1]["metrics"]
    assert results[0]["identity"] == results[1]["identity"]
    assert results[0]["backbone_images"] == results[1]["backbone_images"]
    assert [result["inputs"]["lie_on"] for result in results] == ["host", "device"]
    assert results[0]["inputs"]["bytes_per_batch"] == 0


@pytest.mark.parametrize("name", ["flip_crop", "crop_flip"])
def test_what_is_released_is_freed_while_an_epoch_goes_on(name):
    inputs = Inputs(SOURCES[name](), room())
    batches = inputs.batches(BATCHES, seed=2, workers=0)
    next(batches)
    pixels = weakref.ref(inputs._placed._pixels)
    assert pixels() is not None
    assert inputs.release()
    assert pixels() is None
    assert len([*batches]) == len(BATCHES) - 1
