"""Steps and epochs, on random images of the tiny backbone's size."""

import copy
import json

import pytest
import torch
from torch.nn import functional as F

from peft_vision.config import ConfigError
from peft_vision.data.images import Images
from peft_vision.distributed import World
from peft_vision.loss_watch import LossWatch
from peft_vision.model import Model
from peft_vision.optimizer.sgd import SGD
from peft_vision.schedule import Constant
from peft_vision.seeding import derive
from peft_vision.trainer import Batch, Standing, Trainer
from shipped import adapted

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
PLAIN = {
    "epochs": 2,
    "batch_size": 8,
    "accumulate": 1,
    "eval_batch_size": 16,
    "clip_norm": None,
    "label_smoothing": 0.0,
    "precision": "fp32",
    "checkpointing": False,
    "compile": False,
    "save_seconds": 1000.0,
    "keep": "last",
}


def random_images(count: int, *, augment: str = "none") -> Images:
    generator = torch.Generator().manual_seed(count)
    labels = torch.arange(count) % 4
    noise = torch.randint(0, 100, (count, 3, 32, 32), generator=generator)
    return Images(labels, (noise + 50 * labels.view(-1, 1, 1, 1)).byte(), augment)  # a class is a brightness


def fit(model: Model, *, standing: Standing | None = None, lr: float = 0.1, seed: int = 0, save=None, **options):
    """The rows that were recorded."""
    rows: list[dict[str, float]] = []
    Trainer(**{**PLAIN, **options}).fit(
        model,
        random_images(21, augment="flip_crop"),
        random_images(8),
        optimizer=SGD(lr=lr, weight_decay=0.01, momentum=0.9),
        schedule=Constant(warmup=0.0),
        seed=seed,
        workers=0,
        world=ALONE,
        standing=standing or Standing(),
        record=rows.append,
        save=save or (lambda standing: None),
    )
    return rows


def assert_same_weights(first: Model, second: Model, **tolerance: float) -> None:
    for name, tensor in first.tuned_state().items():
        torch.testing.assert_close(second.tuned_state()[name], tensor, msg=name, **tolerance)


def test_a_step_is_the_textbooks():
    model = adapted("linear")
    twin = copy.deepcopy(model)
    data = random_images(8)
    stepper = torch.optim.SGD(model.head.parameters(), lr=9.0)
    Trainer(**PLAIN)._step(model, stepper, Batch([(data.pixels, data.labels)], size=8), 0.5, ALONE)
    F.cross_entropy(twin(data.pixels), data.labels).backward()
    for moved, still in zip(model.head.parameters(), twin.head.parameters(), strict=True):
        torch.testing.assert_close(moved, still - 0.5 * still.grad)


@pytest.mark.parametrize("method", ["vpt_deep", "full"])
@pytest.mark.parametrize("parts", [2, 3, 8, 50])
def test_accumulating_parts_gives_the_gradient_of_the_whole(method, parts):
    whole, divided = adapted(method), adapted(method)
    fit(whole)
    fit(divided, accumulate=parts)
    assert_same_weights(whole, divided, rtol=1e-4, atol=1e-5)


def test_checkpointing_trains_the_same_weights_with_dropout():
    plain, recomputed = (adapted("vpt_deep", dropout=0.3) for _ in range(2))
    fit(plain)
    fit(recomputed, checkpointing=True)
    assert_same_weights(plain, recomputed)


def test_stopping_and_going_on_gives_bit_identical_weights():
    through, stopped = (adapted("vpt_deep", dropout=0.3) for _ in range(2))
    saved = []

    def save(standing: Standing) -> None:
        saved.append(copy.deepcopy((stopped.tuned_state(), vars(standing))))

    rows = fit(through, epochs=4)
    fit(stopped, epochs=4, save=save, save_seconds=0.0)
    assert [standing["epochs"] for _, standing in saved] == [1, 2, 3, 4]
    tensors, standing = saved[1]
    fresh = adapted("vpt_deep", dropout=0.3, seed=9)
    fresh.load_state_dict(tensors, strict=False)
    torch.manual_seed(123)
    later = fit(fresh, epochs=4, standing=Standing(**standing))
    assert_same_weights(through, fresh, rtol=0, atol=0)
    assert json.dumps(later) == json.dumps(rows[2:])


def test_the_seed_decides_the_order_and_the_global_random_state_does_not():
    models = [adapted("vpt_deep", dropout=0.3) for _ in range(3)]
    for noise, (model, seed) in enumerate(zip(models, (0, 0, 1), strict=True)):
        torch.manual_seed(noise)
        fit(model, seed=seed)
    assert_same_weights(models[0], models[1], rtol=0, atol=0)
    prompts = [model.encoder.layers[0].context.prompts for model in models]
    assert not torch.equal(prompts[0], prompts[2])


def test_a_clipped_gradient_has_the_asked_norm():
    model = adapted("full")
    before = copy.deepcopy(list(model.parameters()))
    fit(model, epochs=1, batch_size=21, clip_norm=1e-3, lr=1.0)
    moved = torch.stack([(p - q).norm() for p, q in zip(model.parameters(), before, strict=True)]).norm()
    decay = 0.01 * torch.stack([q.norm() for q in before]).norm()
    assert moved <= 1e-3 + decay


def test_label_smoothing_is_torchs():
    smoothed, plain = adapted("linear"), adapted("linear")
    first = fit(smoothed, epochs=1, batch_size=21, label_smoothing=0.2)[0]["train/loss"]
    data = random_images(21, augment="flip_crop")
    pixels, labels = next(data.batches([torch.arange(21)], seed=derive(0, "augmentation", 0), workers=0))
    expected = F.cross_entropy(plain(pixels), labels, label_smoothing=0.2)
    assert first == pytest.approx(expected.item(), rel=1e-5)


def test_bf16_trains_close_to_fp32_and_keeps_fp32_weights():
    rows = {precision: fit(adapted("vpt_deep"), precision=precision) for precision in ("fp32", "bf16")}
    assert rows["bf16"][-1]["train/loss"] == pytest.approx(rows["fp32"][-1]["train/loss"], rel=0.05)
    model = adapted("vpt_deep")
    fit(model, precision="bf16")
    assert {tensor.dtype for tensor in model.tuned_state().values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::UserWarning:torch")
def test_compiling_trains_the_same_weights():
    plain, compiled = adapted("vpt_deep"), adapted("vpt_deep")
    fit(plain)
    fit(compiled, compile=True)
    assert_same_weights(plain, compiled, rtol=1e-3, atol=1e-4)


def test_each_epoch_records_its_metrics():
    rows = fit(adapted("linear"))
    assert [row["epoch"] for row in rows] == [1, 2]
    expected = {"epoch", "train/loss", "lr", "val/accuracy", "val/accuracy_top5", "val/accuracy_per_class"}
    assert set(rows[0]) == {*expected, "val/calibration_error", "val/loss"}


def test_the_loss_falls():
    rows = fit(adapted("full"), epochs=15, lr=0.03)
    assert rows[-1]["train/loss"] < 0.5 * rows[0]["train/loss"]


@pytest.mark.parametrize("bad_step", [1, 5, 23])
def test_a_loss_that_is_not_finite_names_step_rate_and_remedy(bad_step):
    def epoch() -> None:
        watch = LossWatch(first_step=100)
        for step in range(1, 40):
            watch.add(torch.tensor(float("nan") if step >= bad_step else 1.0), lr=step / 1000)
        watch.mean(ALONE)

    with pytest.raises(ConfigError) as raised:
        epoch()
    message = str(raised.value)
    assert f"became nan at step {100 + bad_step}, learning rate {bad_step / 1000:.2e}" in message
    assert "optimizer.lr" in message
    assert len(message.splitlines()) == 2
