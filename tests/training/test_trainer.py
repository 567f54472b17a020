"""Steps and epochs, on random images of the tiny backbone's size."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from peft_vision.core.distributed import World
from peft_vision.core.seeding import derive
from peft_vision.data.images import Images
from peft_vision.models.model import Model
from peft_vision.optimizer.base import SGD
from peft_vision.schedule.schedules import Constant, Cosine, Schedule
from peft_vision.training.step import Batch
from peft_vision.training.train_state import Training, TrainState
from peft_vision.training.trainer import Trainer
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
    "mixup_alpha": 0.0,
    "cutmix_alpha": 0.0,
    "keep_predictions": False,
}


def random_images(count: int, *, augment: str = "none") -> Images:
    generator = torch.Generator().manual_seed(count)
    labels = torch.arange(count) % 4
    noise = torch.randint(0, 100, (count, 3, 32, 32), generator=generator)
    return Images(labels, (noise + 50 * labels.view(-1, 1, 1, 1)).byte(), augment)  # a class is a brightness


def fit(
    model: Model,
    *,
    standing: TrainState | None = None,
    lr: float = 0.1,
    seed: int = 0,
    save=None,
    world: World = ALONE,
    schedule: Schedule | None = None,
    **options,
):
    """The rows that were recorded."""
    rows: list[dict[str, float]] = []
    Trainer(**{**PLAIN, **options}).fit(
        model,
        random_images(21, augment="flip_crop"),
        random_images(8),
        Training(
            schedule=schedule or Constant(warmup=0.0),
            seed=seed,
            workers=0,
            world=world,
            state=standing or TrainState(),
            record=rows.append,
            save=save or (lambda state: None),
        ),
        optimizer=SGD(lr=lr, weight_decay=0.01, momentum=0.9),
    )
    return rows


def assert_same_weights(first: Model, second: Model, **tolerance: float) -> None:
    found = second.tuned_state()
    for name, tensor in first.tuned_state().items():
        torch.testing.assert_close(found[name], tensor, msg=name, **tolerance)


def test_a_step_is_the_textbooks():
    model = adapted("linear")
    twin = copy.deepcopy(model)
    data = random_images(8)
    stepper = torch.optim.SGD(model.head.parameters(), lr=9.0)
    Trainer(**PLAIN).updates(model, stepper, ALONE)(Batch([(data.pixels, data.labels)], size=8), 0.5)
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

    def save(standing: TrainState) -> None:
        saved.append(copy.deepcopy((stopped.tuned_state(), vars(standing))))

    rows = fit(through, epochs=4)
    fit(stopped, epochs=4, save=save, save_seconds=0.0)
    assert [standing["epochs"] for _, standing in saved] == [1, 2, 3, 4]
    tensors, standing = saved[1]
    fresh = adapted("vpt_deep", dropout=0.3, seed=9)
    fresh.load_state_dict(tensors, strict=False)
    torch.manual_seed(123)
    later = fit(fresh, epochs=4, standing=TrainState(**standing))
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


@pytest.mark.parametrize("share", [0.1, 0.5, 2.0])
def test_a_gradient_is_clipped_to_the_asked_norm_and_not_further(share):
    """A norm above it becomes that norm exactly, one below stays."""
    model, twin = adapted("full"), adapted("full")
    data = random_images(8)
    F.cross_entropy(twin(data.pixels), data.labels).backward()
    norm = torch.stack([parameter.grad.norm() for parameter in twin.parameters()]).norm().item()
    stepper = torch.optim.SGD(model.parameters(), lr=9.0)
    trainer = Trainer(**{**PLAIN, "clip_norm": share * norm})
    trainer.updates(model, stepper, ALONE)(Batch([(data.pixels, data.labels)], size=8), 0.5)
    for moved, still in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(moved, still - 0.5 * min(share, 1.0) * still.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("parts", [1, 3])
def test_the_lasso_pulls_at_the_columns_of_the_head_once_a_step(parts):
    model = adapted("vqt", keep_fraction=0.5, lasso=0.7, dropout=0.0)
    model.begin_next_phase(seed=0)
    twin = copy.deepcopy(model).train()
    data = random_images(8)
    pieces = zip(data.pixels.tensor_split(parts), data.labels.tensor_split(parts), strict=True)
    stepper = torch.optim.SGD(model.head.parameters(), lr=9.0)
    update = Trainer(**PLAIN).updates(model, stepper, ALONE)
    loss = update(Batch(list(pieces), size=8), 0.5)
    weight = twin.head[1][-1].weight
    expected = F.cross_entropy(twin(data.pixels), data.labels)
    lengths = sum(weight[:, feature].norm() for feature in range(weight.shape[1]))
    (expected + 0.7 * lengths).backward()
    torch.testing.assert_close(model.head[1][-1].weight, weight - 0.5 * weight.grad, rtol=1e-4, atol=1e-6)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)  # which is shown, the penalty is not


def test_each_phase_has_the_whole_schedule_and_its_own_share_of_the_rate():
    model = adapted("vqt", keep_fraction=0.5)
    assert [phase.lr_factor for phase in model.phases] == [1.0, 0.5, 1.0]
    standing, rates = TrainState(), []
    for number in range(3):
        rates.append([row["lr"] for row in fit(model, standing=standing, schedule=Cosine(warmup=0.0))])
        if number < 2:
            model.begin_next_phase(seed=0)
    # 2 epochs of 3 steps; after each the rate of its last step
    ends = [0.1 * (1 + math.cos(math.pi * step / 6)) / 2 for step in (2, 5)]
    assert rates == [pytest.approx([factor * end for end in ends]) for factor in (1.0, 0.5, 1.0)]


def test_a_phase_moves_by_its_share_of_the_rate():
    moved = []
    for lr, factor in ((0.1, 2.0), (0.2, 1.0)):
        model = adapted("vqt", keep_fraction=0.5)
        model.phases = (model.phases[0], replace(model.phases[1], lr_factor=factor))
        model.begin_next_phase(seed=0)
        fit(model, lr=lr, standing=TrainState(epochs=2))
        moved.append(model)
    assert_same_weights(*moved, rtol=0, atol=0)


class Twins(World):
    """A process that trains on the whole batch, whichever its number."""

    def share(self, indices: torch.Tensor) -> torch.Tensor:
        return indices


def test_processes_drop_apart():
    """Of one draw on every process, images at the same place would lose the same entries."""
    models = {}
    for dropout in (0.0, 0.5):
        for rank in (0, 1):
            models[dropout, rank] = adapted("vpt_deep", dropout=dropout)
            fit(models[dropout, rank], world=Twins(rank=rank, size=1, device=ALONE.device))
    assert_same_weights(models[0.0, 0], models[0.0, 1], rtol=0, atol=0)
    with pytest.raises(AssertionError):
        assert_same_weights(models[0.5, 0], models[0.5, 1], rtol=1e-3, atol=1e-3)


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
@pytest.mark.parametrize(
    ("method", "depth", "options"),
    [
        ("vpt_deep", 2, {}),
        ("lora", 1, {"frozen_bits": 4}),
    ],
    ids=str,
)
def test_compiling_trains_the_same_weights(method, depth, options):  # each kernel takes a compiler's second
    plain, compiled = (adapted(method, architecture={"depth": depth}, **options) for _ in range(2))
    fit(plain)
    fit(compiled, compile=True)
    assert_same_weights(plain, compiled, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_another_mode_of_the_compiler_is_handed_to_torch(mode, monkeypatch):
    """With sizes that are fixed. On a CPU it compiles as without a mode, which is tested above."""
    asked = []
    monkeypatch.setattr(torch, "compile", lambda compute, **options: asked.append(options) or compute)
    plain, compiled = (adapted("linear") for _ in range(2))
    fit(plain)
    fit(compiled, compile=mode)
    assert_same_weights(plain, compiled, rtol=0, atol=0)
    assert asked
    assert all(options == {"mode": mode, "dynamic": False} for options in asked)


def test_each_epoch_records_its_metrics():
    rows = fit(adapted("linear"))
    assert [row["epoch"] for row in rows] == [1, 2]
    expected = {"epoch", "train/loss", "lr", "val/accuracy", "val/accuracy_top5", "val/accuracy_per_class"}
    assert set(rows[0]) == {*expected, "val/calibration_error", "val/loss"}


def test_the_loss_falls():
    rows = fit(adapted("full"), epochs=15, lr=0.03)
    assert rows[-1]["train/loss"] < 0.5 * rows[0]["train/loss"]
