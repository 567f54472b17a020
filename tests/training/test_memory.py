"""A device without memory left: what is tried, what is said, and that the numbers do not depend on it."""

import logging

import pytest
import torch
from torch import nn

from peft_vision.core.config import ConfigError
from peft_vision.optimizer.base import SGD
from peft_vision.schedule.schedules import Constant
from peft_vision.training.step import Arithmetic, Update
from peft_vision.training.train_state import Training, TrainState
from peft_vision.training.trainer import Trainer
from shipped import adapted
from test_trainer import ALONE, PLAIN, assert_same_weights, fit, random_images


class Small(nn.Module):
    """A device on which only so many images fit, in the place of the model as a step calls it."""

    def __init__(self, model: nn.Module, *, images: int, uses: list[int]) -> None:
        super().__init__()
        self.model, self.images, self.uses = model, images, uses

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.uses.append(len(inputs))
        logits = self.model(inputs)  # which draws random numbers
        if len(inputs) > self.images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return logits


@pytest.fixture
def small(monkeypatch):
    """`small(3)`: from now on a step of more than three images has no memory; returns the sizes of what was tried."""

    def limit(images: int) -> list[int]:
        uses: list[int] = []
        monkeypatch.setattr(Trainer, "compute", lambda self, model, world: Small(model, images=images, uses=uses))
        return uses

    return limit


@pytest.mark.parametrize(("fits", "parts"), [(8, 1), (7, 2), (4, 2), (3, 4), (1, 8)])
def test_auto_divides_until_a_part_fits_and_trains_as_if_it_had_known(fits, parts, small, caplog):
    known = adapted("vpt_deep", dropout=0.3)
    fit(known, accumulate=parts)
    found, state, uses = adapted("vpt_deep", dropout=0.3), TrainState(), small(fits)
    with caplog.at_level(logging.WARNING, "peft_vision"):
        fit(found, accumulate="auto", standing=state)
    assert_same_weights(known, found, rtol=0, atol=0)  # the draws of the failed attempts were given back
    assert state.parts == parts
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"memory    a batch of 8 does not fit; it is computed in parts, as with trainer.accumulate={parts}"
    ] * (parts > 1)
    assert sum(size > fits for size in uses) == {1: 0, 2: 1, 4: 2, 8: 3}[parts]  # in the first step alone


def test_a_resumed_run_remembers_the_parts(small):
    uses = small(4)
    state = TrainState()
    fit(adapted("linear"), accumulate="auto", standing=state)
    uses.clear()
    fit(adapted("linear"), accumulate="auto", standing=TrainState(epochs=1, parts=state.parts))
    assert max(uses) == 4


def test_where_one_image_does_not_fit_auto_gives_up(small):
    small(0)
    with pytest.raises(ConfigError) as raised:
        fit(adapted("linear"), accumulate="auto")
    assert str(raised.value) == (
        "device: cpu has no memory left for training steps of 8 images\n"
        "set a smaller trainer.batch_size, or trainer.checkpointing=true"
    )


def test_a_fixed_number_of_parts_ends_in_what_to_set(small):
    small(3)
    with pytest.raises(ConfigError) as raised:
        fit(adapted("linear"), accumulate=2, checkpointing=True)
    assert str(raised.value) == (
        "device: cpu has no memory left for training steps of 8 images\n"
        "set trainer.accumulate=auto, a smaller trainer.batch_size"
    )


def fit_on(device_gib: float, **options: object) -> tuple[TrainState, list[float]]:
    """With inputs on the device."""
    state, losses = TrainState(), []
    training = Training(
        schedule=options.pop("schedule"),
        seed=0,
        workers=0,
        world=ALONE,
        state=state,
        record=lambda row: losses.append(row["train/loss"]),
        save=lambda state: None,
        device_memory_gib={"data": device_gib, "features": device_gib},
    )
    model = options.pop("model")
    Trainer(**{**PLAIN, **options}).fit(
        model, random_images(21), random_images(8), training, optimizer=SGD(lr=0.1, weight_decay=0.0, momentum=0.0)
    )
    return state, losses


def test_inputs_make_way_before_a_batch_is_divided(monkeypatch, caplog):
    schedule = Constant(warmup=0.0)
    _, expected = fit_on(0.0, model=adapted("vpt_deep", dropout=0.3), schedule=schedule)
    computed, plain = [], Update._backward

    def full_once(update: Update, batch) -> torch.Tensor:
        computed.append(batch.size)
        loss = plain(update, batch)
        if len(computed) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss

    monkeypatch.setattr(Update, "_backward", full_once)
    with caplog.at_level(logging.WARNING, "peft_vision"):
        state, losses = fit_on(1.0, model=adapted("vpt_deep", dropout=0.3), schedule=schedule)
    assert losses == expected
    assert (state.inputs["lie_on"], state.parts) == ("host", 1)
    assert len(caplog.records) == 1


def test_a_batch_whose_statistics_are_kept_is_not_computed_twice(small):
    small(4)
    with pytest.raises(ConfigError, match="no memory left for training steps"):
        fit(batch_normed(), accumulate=1)


def batch_normed():
    model = adapted("linear")
    model.head = nn.Sequential(nn.BatchNorm1d(model.readout.width), model.head)
    return model


def test_auto_is_for_one_process():
    trainer = Trainer(**{**PLAIN, "accumulate": "auto"})
    optimizer = SGD(lr=0.1, weight_decay=0.0, momentum=0.0)
    trainer.check(optimizer, group="optimizer", processes=1)
    with pytest.raises(ConfigError, match=r"trainer\.accumulate: auto is for one process, and each of 2"):
        trainer.check(optimizer, group="optimizer", processes=2)


def test_scoring_and_observing_say_what_to_set(monkeypatch):
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model, trainer, remedy = adapted("linear"), Trainer(**PLAIN), r"set a smaller trainer\.eval_batch_size"
    monkeypatch.setattr(type(model), "forward", full)
    with pytest.raises(ConfigError, match=rf"a forward pass of 16 images\n{remedy}"):
        trainer.evaluate(model, random_images(8), "val", workers=0, world=ALONE)


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp32"])
def test_tf32_holds_within_the_block_and_outside_nothing_changes(precision):
    before = torch.get_float32_matmul_precision()
    arithmetic = Arithmetic("cpu", bf16=precision == "bf16", tf32=precision == "tf32")
    for _ in range(2):
        with arithmetic:
            assert torch.get_float32_matmul_precision() == ("high" if precision == "tf32" else before)
            assert torch.is_autocast_enabled("cpu") is (precision == "bf16")
        with arithmetic.products():
            assert torch.get_float32_matmul_precision() == ("high" if precision == "tf32" else before)
            assert not torch.is_autocast_enabled("cpu")
        assert torch.get_float32_matmul_precision() == before


def test_tf32_is_a_gpus_and_elsewhere_fp32():
    trainer = Trainer(**{**PLAIN, "precision": "tf32"})
    assert trainer.arithmetic(torch.device("cuda")) == "tf32"
    assert trainer.arithmetic(torch.device("cpu")) == "torch.float32" == Trainer(**PLAIN).arithmetic(ALONE.device)
    models = [adapted("vpt_deep") for _ in range(2)]
    for model, precision in zip(models, ("tf32", "fp32"), strict=True):
        fit(model, precision=precision)
    assert_same_weights(*models, rtol=0, atol=0)
