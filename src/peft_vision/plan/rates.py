"""How long what a run does takes here, for each image: measured on random images, without the run's data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter

import torch

from peft_vision.bench.measure import endless, forward_pass, observed
from peft_vision.bench.setting import Setting
from peft_vision.data.images import Images, Source
from peft_vision.experiment import Experiment
from peft_vision.features.source import Table
from peft_vision.model import Model
from peft_vision.optimizer.base import Fitting, Solver, Stepper
from peft_vision.optimizer.grid import Grid
from peft_vision.probe import head_input
from peft_vision.seeding import derive
from peft_vision.trainer import stepping

_SCORED = 64  # images in a pass that is timed; a CPU takes as long for each of more


@dataclass(frozen=True)
class PhaseRates:
    """Seconds for an image: `step`, of training; `score`, of a pass without gradients; both of what the phase reads:
    the store where `stored`. `update`: seconds of a step that no image takes, in which the optimizer moves what trains.
    `step` is None of a phase whose solver takes as long as the data make it."""

    stored: bool
    step: float | None
    update: float
    score: float


@dataclass(frozen=True)
class Rates:
    """`setup`: seconds until a model is there. Seconds for an image: `observe`, what the store is filled with, None
    where nothing is stored; `forward`, the bare backbone. `stored_bytes`: of an image in the store; `trained`:
    parameters that train, head included."""

    setup: float
    phases: tuple[PhaseRates, ...]
    observe: float | None
    forward: float
    stored_bytes: int
    trained: int


def measure(experiment: Experiment, setting: Setting) -> Rates:
    """Of runs of this kind. `setting`: with their batches and number of classes."""
    started = perf_counter()
    model = setting.model(experiment.method)
    setup = perf_counter() - started
    counts = model.parameter_counts()
    images = setting.images()
    stored_bytes = _stored_bytes(model) if _stores(experiment, model) else 0
    observe = _seconds(lambda: observed(model, images, setting), setting) / len(images) if stored_bytes else None
    phases = [_phase(model, images, experiment, setting)]
    while model.begun < len(model.phases):
        model.begin_next_phase(seed=derive(setting.seed, "initialisation"))
        phases.append(_phase(model, images, experiment, setting))
    forward = _seconds(forward_pass(setting), setting) / setting.trainer.batch_size
    return Rates(setup, tuple(phases), observe, forward, stored_bytes, counts.method + counts.head)


def between(measured: Sequence[tuple[int, Rates]], classes: int) -> Rates:
    """`measured`: with so many classes, the fewest first; a head's time rises evenly with them."""
    (fewest, low), (most, high) = measured[0], measured[-1]
    if fewest == most:
        return low
    share = (classes - fewest) / (most - fewest)

    def at(first: float | None, last: float | None) -> float | None:
        return None if first is None or last is None else first + share * (last - first)

    phases = [
        replace(
            one,
            step=at(one.step, other.step),
            update=at(one.update, other.update),
            score=at(one.score, other.score),
        )
        for one, other in zip(low.phases, high.phases, strict=True)
    ]
    return replace(low, phases=tuple(phases), trained=round(low.trained + share * (high.trained - low.trained)))


def _stores(experiment: Experiment, model: Model) -> bool:
    """Whether the present phase reads its training images from the store."""
    features, data = experiment.features, experiment.data
    return model.frozen is not None and features.use != "never" and (data.augment == "none" or features.views > 0)


def _phase(model: Model, images: Images, experiment: Experiment, setting: Setting) -> PhaseRates:
    stored = _stores(experiment, model)
    source: Source = observed(model, images, setting) if stored else images
    optimizer = experiment.optimizers[model.phase.group]
    if stored and (model.phase.probe or isinstance(optimizer, Solver)):
        source = head_input(model, source, trainer=setting.trainer, workers=0, world=setting.world)
    score = _seconds(_scoring(model, source, setting), setting) / min(_SCORED, len(source))
    if isinstance(optimizer, Grid) and isinstance(source, Table):
        head = setting.head.build(model.readout.width, setting.num_classes)[-1].to(setting.world.device)
        step = _seconds(lambda: optimizer.solve(head, source, None, _one_epoch(experiment)), setting) / len(source)
        return PhaseRates(stored, step, 0.0, score)
    if not isinstance(optimizer, Stepper):
        return PhaseRates(stored, None, 0.0, score)
    stepper = optimizer.create(model, seed=setting.seed)
    update = setting.trainer.updates(model, stepper, setting.world)
    batches = endless(source, setting)
    with stepping(optimizer, stepper):
        seconds = _seconds(lambda: update(next(batches), optimizer.lr), setting)
    moving = 0.0 if optimizer.steps_during_backward else _seconds(stepper.step, setting)
    return PhaseRates(stored, (seconds - moving) / setting.trainer.batch_size, moving, score)


def _one_epoch(experiment: Experiment) -> Fitting:
    trainer = experiment.trainer
    return Fitting(
        epochs=1,
        batch_size=trainer.batch_size,
        label_smoothing=trainer.label_smoothing,
        schedule=experiment.schedule,
        seed=experiment.seed,
    )


def _scoring(model: Model, source: Source, setting: Setting) -> Callable[[], None]:
    ((inputs, _),) = source.batches([torch.arange(min(_SCORED, len(source)))], seed=None, workers=0)
    device = setting.world.device

    def score() -> None:
        model.eval()
        with torch.no_grad(), setting.trainer.autocast(device):
            model(inputs.to(device))

    return score


def _stored_bytes(model: Model) -> int:
    shapes = model.encoder.observed_shapes(depth=model.depth)
    return sum(torch.Size(shapes[kind]).numel() for kind in model.frozen) * model.observed_type.itemsize


def _seconds(act: Callable[[], object], setting: Setting) -> float:
    """The median of some calls, after some that do not count."""
    wait = torch.get_device_module(setting.world.device).synchronize
    taken: list[float] = []
    for _ in range(setting.warmup + setting.repeats):
        wait()
        started = perf_counter()
        act()
        wait()
        taken.append(perf_counter() - started)
    return median(taken[setting.warmup :])
