"""A few augmented views of each image train the same, whether what is observed of them is stored or not."""

import pytest
import torch

from peft_vision.core.config import ConfigError
from peft_vision.data.images import Images
from peft_vision.features.fill import ObservationPass
from peft_vision.features.store import Features, RunFacts, Store
from peft_vision.models.model import Model
from peft_vision.models.observations import Observed, Views, view_seed
from peft_vision.optimizer.base import SGD
from peft_vision.schedule.schedules import Constant
from peft_vision.training.train_state import Training, TrainState
from peft_vision.training.trainer import Trainer
from shipped import adapted
from test_trainer import ALONE, PLAIN, assert_same_weights, random_images

BATCHES = [torch.tensor([3, 0, 12]), torch.tensor([4]), torch.tensor([], dtype=torch.int64), torch.arange(13)]


@pytest.mark.parametrize("augment", ["flip_crop", "rand_augment"])
@pytest.mark.parametrize("views", [1, 3])
def test_views_are_bit_for_bit_the_images_that_were_observed(augment, views):
    """Whatever an encoder shows of them: here it shows the pixels themselves."""
    images = random_images(13, augment=augment)
    seen = [next(images.batches([torch.arange(13)], seed=view_seed(view), workers=0))[0] for view in range(views)]
    stored = Observed(images.labels, {"features": torch.cat(seen).flatten(1).float()})
    made = Views(images, views)
    before = images.handed_out
    for seed in (None, 0, 1, 2):
        both = [source.batches(BATCHES, seed=seed, workers=0) for source in (stored, made)]
        for (observed, labels), (pixels, view_labels) in zip(*both, strict=True):
            assert torch.equal(pixels.flatten(1).float(), observed.features)
            assert torch.equal(labels, view_labels)
    assert images.handed_out - before == 4 * 17
    both = [source.in_order(batch_size=5, workers=0) for source in (stored, made)]
    stored_rows, stored_labels = zip(*both[0], strict=True)
    rows, labels = zip(*both[1], strict=True)
    assert torch.equal(torch.cat(rows).flatten(1).float(), torch.cat([row.features for row in stored_rows]))
    assert torch.equal(torch.cat(labels), torch.cat(stored_labels))


def store(model: Model, images: Images, folder, **options) -> Store:
    usual = {
        "use": "auto",
        "dtype": "fp32",
        "grid_dtype": "fp16",
        "views": 2,
        "folder": str(folder),
        "memory_gib": 1.0,
        "disk_gib": 1.0,
        "device_memory_gib": "auto",
    }
    return Store(
        Features(**{**usual, "also": (), **options}),
        model=model,
        splits={"train": images},
        run=RunFacts(origin={}, method="lora", augment=images.augment),
        observed_by=ObservationPass(
            batch_size=16, workers=0, autocast=Trainer(**PLAIN).autocast(ALONE.device), device=ALONE.device
        ),
        quiet=True,
    )


def trained(folder, *, method: str = "linear", **options) -> tuple[Model, Store]:
    """By some steps on what the store gives."""
    model = adapted(method)
    shelf = store(model, random_images(21, augment="flip_crop"), folder, **options)
    Trainer(**{**PLAIN, "epochs": 3}).fit(
        model,
        shelf.source("train"),
        None,
        Training(
            schedule=Constant(warmup=0.0),
            seed=0,
            workers=0,
            world=ALONE,
            state=TrainState(),
            record=lambda row: None,
            save=lambda state: None,
        ),
        optimizer=SGD(lr=0.1, weight_decay=0.0, momentum=0.9),
    )
    return model, shelf


@pytest.mark.parametrize("elsewhere", [{"memory_gib": 0.0, "disk_gib": 0.0}, {"use": "never"}], ids=str)
@pytest.mark.parametrize("method", ["linear", "vqt"])
def test_with_and_without_room_the_same_is_trained(method, elsewhere, tmp_path):
    with_room, held = trained(tmp_path, method=method)
    without, none = trained(tmp_path / "other", method=method, **elsewhere)
    assert (held.held["train"].reason, none.held["train"].reason is None) == (None, False)
    assert_same_weights(with_room, without, rtol=1e-4, atol=1e-6)
    one, _ = trained(tmp_path, method=method, views=0)
    with pytest.raises(AssertionError):
        assert_same_weights(with_room, one, rtol=1e-4, atol=1e-6)  # images that are new in each epoch


def test_views_of_what_changes_are_refused_whatever_is_stored(tmp_path):
    for use in ("auto", "never"):
        with pytest.raises(ConfigError, match=r"features.views=2: lora works inside the backbone from its first layer"):
            store(adapted("lora"), random_images(5, augment="flip_crop"), tmp_path, use=use)


def test_an_entry_belongs_to_one_version_of_timm(tmp_path, monkeypatch):
    images = random_images(5)
    keys = []
    for version in ("1.0.1", "1.0.1", "1.0.2"):
        monkeypatch.setattr("timm.__version__", version)
        held = store(adapted("linear"), images, tmp_path)
        held.source("train")
        keys.append((held.held["train"].key, held.held["train"].computed))
    assert keys[0] == (keys[1][0], ("features",))
    assert keys[1][1] == ()
    assert keys[2][0] != keys[0][0]
    assert keys[2][1] == ("features",)
