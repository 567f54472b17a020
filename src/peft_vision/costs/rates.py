"""This module measures how long the acts of a run take on this machine, on random images, with the code of a run."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from time import perf_counter

import torch

from peft_vision.backbone.weights import weights_hash
from peft_vision.core.seeding import derive
from peft_vision.costs.expected import RunGroup
from peft_vision.costs.measure import endless, forward_pass, medians
from peft_vision.costs.setting import BenchSetting
from peft_vision.costs.walk import Act
from peft_vision.data.images import Images, Source
from peft_vision.features.fill import ObservationPass
from peft_vision.features.store import Features, RunFacts, Store
from peft_vision.models.model import Model
from peft_vision.optimizer.base import Fitting
from peft_vision.optimizer.grid import Grid
from peft_vision.runs.experiment import Experiment
from peft_vision.training.probe import head_input
from peft_vision.training.trainer import stepping

Call = Callable[[], object]
_SOLVED = 16  # epochs of a solver that are measured together, since set-up and end take as long as some epochs
_PART = 4  # the second size that is measured is a quarter of the first


@dataclass(frozen=True)
class CostLine:
    """A line for the seconds of an act: `call` for each call, whatever the number of images, and `image` for each
    image."""

    call: float
    image: float

    def seconds(self, *, images: float, calls: float) -> float:
        return calls * self.call + images * self.image

    @classmethod
    def through(cls, few: tuple[int, float], many: tuple[int, float]) -> "CostLine":
        """Fit a line to two measurements, each a number of images and its seconds; both coefficients are at least 0."""
        (fewer, short), (more, long) = few, many
        image = (long - short) / (more - fewer) if more > fewer else long / more
        image = min(max(image, 0.0), long / more)
        return cls(long - more * image, image)


@dataclass(frozen=True)
class Rates:
    """The rates of one kind of run. `lines`: of each act that could be measured, which leaves out solvers whose time
    depends on the data. Seconds: `setup`, until a model is built; `forward`, of the bare backbone for one image."""

    setup: float
    forward: float
    lines: Mapping[Act, CostLine]


def measure(experiment: Experiment, acts: Collection[Act], setting: BenchSetting) -> Rates:
    """Measure the rates of `acts`. `setting`: has the batch size and the number of classes of these runs."""
    started = perf_counter()
    model = setting.model(experiment.method)
    weights_hash(model.encoder.vit)
    setup = perf_counter() - started
    batch = setting.trainer.batch_size
    quarter = replace(setting.trainer, batch_size=max(1, batch // _PART))
    samples = [_Sample(experiment, model, replace(setting, trainer=quarter)), _Sample(experiment, model, setting)]
    lines: dict[Act, CostLine] = {}
    for number in range(len(model.phases)):
        if number:
            model.begin_next_phase(seed=derive(setting.seed, "initialisation"))
        phase_acts = [act for act in acts if act.phase == number]
        few, many = (sample.seconds(phase_acts) for sample in samples)
        lines |= {act: CostLine.through((samples[0].count, few[act]), (samples[1].count, many[act])) for act in few}
    return Rates(setup, medians({"forward": forward_pass(setting)}, setting)["forward"] / batch, lines)


def between(low: Rates, high: Rates, share: float) -> Rates:
    """Interpolate lines from `low` (`share` 0) to `high` (1), since the time of a head is linear in the number of
    classes."""

    def at(first: float, last: float) -> float:
        return first + share * (last - first)

    pairs = {act: (line, high.lines[act]) for act, line in low.lines.items()}
    lines = {act: CostLine(at(one.call, other.call), at(one.image, other.image)) for act, (one, other) in pairs.items()}
    return replace(low, lines=lines)


class _Sample:
    """A batch of random images on which the acts of the model's present phase are measured."""

    def __init__(self, experiment: Experiment, model: Model, setting: BenchSetting) -> None:
        self.count = setting.trainer.batch_size
        self._experiment = experiment
        self._model = model
        self._setting = setting
        self._images = setting.images()
        self._batch = Images(self._images.labels[: self.count], self._images.pixels[: self.count], augment="none")
        self._common = {"trainer": setting.trainer, "workers": 0, "world": setting.world}

    def seconds(self, acts: Collection[Act]) -> dict[Act, float]:
        """Return the seconds of one call of each act that can be measured."""
        stored = any(act.reads == "observed" or act.what == "observe" for act in acts)
        with TemporaryDirectory() as folder:
            sources: dict[str, Source] = {"images": self._batch}
            if stored:
                sources["observed"] = self._store(folder).source("train")
            if any(act.reads == "table" for act in acts):
                sources["table"] = head_input(self._model, [*sources.values()][-1], **self._common)
            calls = {act: self._call(act, sources, folder) for act in acts}
            taken = medians({act: call for act, call in calls.items() if call is not None}, self._setting)
            return {act: seconds / (_SOLVED if act.what == "solve" else 1) for act, seconds in taken.items()}

    def _call(self, act: Act, sources: Mapping[str, Source], folder: str) -> Call | None:
        trainer, world, source = self._setting.trainer, self._setting.world, sources[act.reads]
        if act.what == "observe":
            return lambda: (self._features(folder).shelf.clear(), self._store(folder).source("train"))
        if act.what == "find":
            return lambda: self._store(folder).source("train")
        if act.what == "tabulate":
            return lambda: head_input(self._model, source, **self._common)
        if act.what == "score":
            return lambda: trainer.evaluate(self._model, source, "val", workers=0, world=world)
        if act.what == "solve":
            return self._solve(source)
        return self._step(self._images if act.reads == "images" else source)

    def _step(self, source: Source) -> Call:
        setting = self._setting
        optimizer = self._experiment.optimizers[self._model.phase.group]
        optimizer = optimizer.steppers()[0] if isinstance(optimizer, Grid) else optimizer
        stepper = optimizer.create(self._model, seed=setting.seed)
        update = setting.trainer.updates(self._model, stepper, setting.world)
        batches = endless(source, setting)

        def step() -> None:
            self._model.train()
            with stepping(optimizer, stepper):
                update(next(batches), 0.0)  # a learning rate of 0 takes as long and never diverges

        return step

    def _solve(self, table: Source) -> Call | None:
        optimizer = self._experiment.optimizers[self._model.phase.group]
        if not isinstance(optimizer, Grid):
            return None
        trainer, world = self._setting.trainer, self._setting.world
        head = self._setting.head.build(self._model.readout.width, self._setting.num_classes)[-1].to(world.device)
        fitting = Fitting(
            epochs=_SOLVED,
            batch_size=trainer.batch_size,
            label_smoothing=trainer.label_smoothing,
            schedule=self._experiment.schedule,
            seed=self._experiment.seed,
        )
        return lambda: optimizer.solve(head, table, None, fitting)

    def _features(self, folder: str) -> Features:
        return replace(self._setting.features, use="auto", views=0, folder=folder)

    def _store(self, folder: str) -> Store:
        """Return a store of the sample's batch."""
        setting = self._setting
        return Store(
            self._features(folder),
            model=self._model,
            splits={"train": self._batch},
            run=RunFacts(origin={}, method=self._experiment.choices["method"], augment="none"),
            observed_by=ObservationPass(
                batch_size=setting.trainer.eval_batch_size,
                workers=0,
                autocast=setting.trainer.autocast(setting.world.device),
                device=setting.world.device,
            ),
            quiet=True,
        )


_SAMPLE = 48  # pictures


def seconds_for_a_picture(demand: RunGroup) -> float | None:
    """Return the seconds to read a picture with the run's threads, or None if the pictures are not here."""
    experiment, parts = demand.experiment, demand.content.parts
    if parts is None:
        return None
    train = parts["train"]
    sample = train.subset(torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:_SAMPLE])
    started = perf_counter()
    experiment.data.load_other(sample, experiment.backbone.preprocessing(), label="sampled")
    return (perf_counter() - started) / len(sample)
