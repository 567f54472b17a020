"""Steps that are replayed as a graph train what plain steps train. On a CPU a function stands in for the graph."""

from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from peft_vision.core.config import ConfigError
from peft_vision.core.distributed import World
from peft_vision.models.observations import Observed
from peft_vision.optimizer.base import SGD, AdamW
from peft_vision.optimizer.restore import restore
from peft_vision.training import graphed
from peft_vision.training.step import Batch
from peft_vision.training.trainer import Trainer
from shipped import adapted
from test_trainer import ALONE, PLAIN, assert_same_weights, fit, random_images

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
ADAMW = AdamW(lr=0.1, weight_decay=0.1, betas=(0.9, 0.999), eps=1e-8, decays="matrices")
GRAPHED = {**PLAIN, "compile": "cuda_graph"}


@pytest.fixture
def replays(monkeypatch) -> list[int]:
    """Let a CPU pass for a device with graphs; the list grows by the number of each replay."""
    counted: list[int] = []

    def recorded(act: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, Callable[[], None]]:
        returned = torch.zeros(())

        def replay() -> None:
            counted.append(len(counted))
            returned.copy_(act())

        return returned, replay

    monkeypatch.setattr("peft_vision.training.trainer.GraphedUpdate", partial(graphed.GraphedUpdate, record=recorded))
    monkeypatch.setattr("peft_vision.training.trainer.check_graph", lambda stepper, world: None)
    return counted


@pytest.mark.parametrize(("method", "parts"), [("vpt_deep", 1), ("vpt_deep", 3), ("full", 1)])
def test_replayed_steps_train_the_same_bits(method, parts, replays):
    """Of 21 images in batches of 8, the last batch of an epoch has 5, and is never replayed."""
    options = {"epochs": 4, "accumulate": parts}
    models = [adapted(method) for _ in range(2)]
    rows = [fit(models[0], **options), fit(models[1], **options, compile="cuda_graph")]
    assert_same_weights(*models, rtol=0, atol=0)
    assert rows[0] == rows[1]  # losses too, each of which is its own
    assert len(replays) == 4 * 2 - 3


def test_plain_and_replayed_steps_have_the_same_rate():
    """So that a run that goes on, whose first steps are plain ones again, ends in the same bits."""
    rates = []
    noted = Mock(side_effect=lambda batch, lr: rates.append(float(lr)), world=ALONE)
    noted.stepper.param_groups = []
    update = graphed.GraphedUpdate(noted, record=lambda act, device: (torch.zeros(()), act))
    for lr in (0.1, 0.2, 0.3, 0.4, 0.5):
        update(Batch([(torch.zeros(2, 3), torch.zeros(2))], 2), lr)
    assert rates == torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]).tolist()


def test_dropout_draws_anew_in_each_replay(replays):
    models = [adapted("vpt_deep", dropout=0.4) for _ in range(2)]
    fit(models[0], epochs=4)
    fit(models[1], epochs=4, compile="cuda_graph")
    assert_same_weights(*models, rtol=0, atol=0)
    assert replays


def test_stored_observations_are_replayed_too(replays):
    models = [adapted("vqt") for _ in range(2)]
    images = random_images(24)
    with torch.no_grad():
        seen = models[0].eval().observe(images.pixels)
    source = Observed(images.labels, {kind: seen.pack(kind) for kind in models[0].frozen})
    for model, options in zip(models, (PLAIN, GRAPHED), strict=True):
        torch.manual_seed(0)
        trainer, optimizer = Trainer(**options), SGD(lr=0.1, weight_decay=0.0, momentum=0.9)
        update = trainer.updates(model, optimizer.create(model, seed=0), ALONE)
        for epoch in range(3):
            for batch in trainer.batches(source, 0, epoch, 0, ALONE):
                update(batch, 0.1 / (1 + epoch))
    assert_same_weights(*models, rtol=0, atol=0)
    assert len(replays) == 6


def test_a_graph_is_recorded_on_the_gpu_of_the_run(monkeypatch):
    streams, current = [], ["cuda:0"]

    @contextmanager
    def device(chosen):
        current.append(str(chosen))
        yield
        current.pop()

    @contextmanager
    def graph(_, *, stream, **options):
        streams.append((stream, current[-1]))
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Mock)
    monkeypatch.setattr(torch.cuda, "Stream", str)
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    graphed.recorded(lambda: torch.zeros(()), torch.device("cuda:1"))
    assert streams == [("cuda:1", "cuda:1")]


def test_a_cpu_has_no_graphs():
    with pytest.raises(
        ConfigError, match=r"trainer\.compile: got cuda_graph, but this run computes on cpu, and graphs"
    ):
        fit(adapted("linear"), compile="cuda_graph")


def test_what_cannot_be_a_graph_is_refused():
    gpus = World(rank=0, size=2, device=torch.device("cuda"))
    stepper = torch.optim.LBFGS(adapted("linear").head.parameters())
    with pytest.raises(ConfigError, match="2 processes share their gradients; LBFGS decides in each step what to do"):
        graphed.check_graph(stepper, gpus)


@pytest.mark.parametrize(
    ("beside", "fault"),
    [
        ({"accumulate": "auto"}, r"trainer\.accumulate: auto, but"),
        ({"checkpointing": True}, "whose steps cannot recomp"),
    ],
)
def test_options_that_no_graph_can_have_are_refused(beside, fault):
    trainer = Trainer(**{**GRAPHED, **beside})
    with pytest.raises(ConfigError, match=fault):
        trainer.check(SGD(lr=0.1, weight_decay=0.0, momentum=0.0), group="optimizer", processes=1)


def test_true_and_default_are_one_mode():
    assert Trainer(**{**PLAIN, "compile": "default"}).compile is True
    assert Trainer(**PLAIN).compile is False


@NEEDS_GPU
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_gpu_replays_what_it_computes(momentum):
    world = World(rank=0, size=1, device=torch.device("cuda"))
    models = [adapted("vpt_deep").to(world.device) for _ in range(2)]
    for model, options in zip(models, (PLAIN, GRAPHED), strict=True):
        trainer, optimizer = Trainer(**options), SGD(lr=0.1, weight_decay=0.0, momentum=momentum)
        update = trainer.updates(model, optimizer.create(model, seed=0), world)
        for epoch in range(4):
            for batch in trainer.batches(random_images(21), 0, epoch, 0, world):
                update(batch, 0.1)
    assert_same_weights(*models, rtol=1e-4, atol=1e-5)


@NEEDS_GPU
@pytest.mark.parametrize("optimizer", [SGD(lr=0.1, weight_decay=0.0, momentum=0.9), ADAMW], ids=["sgd", "adamw"])
def test_a_gpu_goes_on_to_the_same_bits(optimizer):
    """With plain steps where replays would have been."""
    world = World(rank=0, size=1, device=torch.device("cuda"))
    models = [adapted("linear").to(world.device) for _ in range(2)]
    for model, halts in zip(models, (False, True), strict=True):
        trainer, stepper = Trainer(**GRAPHED), optimizer.create(model, seed=0)
        update = trainer.updates(model, stepper, world)
        for epoch in range(6):
            if halts and epoch == 3:
                saved, stepper = stepper.state_dict(), optimizer.create(model, seed=0)
                restore(stepper, saved)
                update = trainer.updates(model, stepper, world)
            for batch in trainer.batches(random_images(21), 0, epoch, 0, world):
                update(batch, 0.1 / (1 + epoch))
    assert_same_weights(*models, rtol=0, atol=0)
