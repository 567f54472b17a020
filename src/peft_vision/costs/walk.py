"""This module simulates a run: which images pass the backbone, what is stored and found, and how often each act occurs.

It follows `phases.py`, `features/store.py` and the scoring of `task/train.py` step by step, so that its counts equal
those that a result records; tests compare the two.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from peft_vision.backbone.observation import Kind
from peft_vision.core.seeding import derive
from peft_vision.costs.expected import RunGroup, Stock
from peft_vision.costs.held import HeldBytes
from peft_vision.features.store import Features, entry_name
from peft_vision.models.model import Model
from peft_vision.optimizer.base import Solver
from peft_vision.runs.experiment import Experiment
from peft_vision.training.probe import trains_together


@dataclass(frozen=True)
class PhaseFacts:
    """The facts of one phase that decide its cost. `frozen`: kinds of observation that can be stored, None if none can;
    `probe`: whether the head alone trains, on one vector of an image that is the same in every step; `first`: whether
    it is the phase that fits the head before all else; `solved`: whether a solver fits it; `settings`: how many models
    train in the same steps, with `seeds` seeds."""

    frozen: frozenset[Kind] | None
    probe: bool
    first: bool
    solved: bool
    settings: int = 1
    seeds: int = 1


@dataclass(frozen=True)
class Anatomy:
    """The facts of a model that decide its cost. `entries`: bytes of an image in the store, by kind; `names`: suffixes
    of the names of their files, by kind; `width`: of the features that the head reads; `trained`: number of trained
    parameters, head included; `held`: of what the model holds before its first step; `tunes`: whether more than the
    head is trained; `dense`: whether the head reads grids."""

    phases: tuple[PhaseFacts, ...]
    entries: Mapping[Kind, int]
    names: Mapping[Kind, str]
    width: int
    trained: int
    held: HeldBytes = field(default_factory=HeldBytes)
    tunes: bool = True
    dense: bool = False


def anatomy(model: Model, experiment: Experiment) -> Anatomy:
    """Return the anatomy of a fresh `model`, which is in its last phase afterwards."""
    shapes = model.observed_shapes()
    counts, held = model.parameter_counts(), HeldBytes.of(model)
    phases = [_facts(model, experiment)]
    while model.begun < len(model.phases):
        model.begin_next_phase(seed=derive(experiment.seed, "initialisation"))
        phases.append(_facts(model, experiment))
    return Anatomy(
        phases=tuple(phases),
        entries={kind: torch.Size(shape).numel() * model.type_of(kind).itemsize for kind, shape in shapes.items()},
        names={kind: entry_name(kind, model) for kind in shapes},
        width=model.readout.width,
        trained=counts.method + counts.head,
        held=held,
        tunes=counts.method > 0,
        dense=model.segments,
    )


def _facts(model: Model, experiment: Experiment) -> PhaseFacts:
    optimizer = experiment.optimizers[model.phase.group]
    together = trains_together(optimizer, model)
    return PhaseFacts(
        frozen=model.frozen,
        probe=model.phase.probe and not model.phase.live_readout and not model.segments,
        first=model.phase.group == "probe",
        solved=isinstance(optimizer, Solver) and not together,
        settings=optimizer.num_models if together else 1,
        seeds=optimizer.num_models // optimizer.num_settings if together else 1,
    )


Reads = Literal["images", "observed", "table"]
_GIB = 2**30


@dataclass(frozen=True)
class Act:
    """An act of a run that takes time, in the phase of this number. step: training on a batch; score: a pass without
    gradients; tabulate: computing the head's input once; solve: a solver's step; observe: filling the store; find:
    reading from it."""

    what: Literal["step", "score", "tabulate", "solve", "observe", "find"]
    phase: int
    reads: Reads


@dataclass
class Tally:
    """The counts of one run. Images that pass the backbone, counted at each pass, by split: `trained`, with gradients;
    `scored`, without; `observed`, for the store. `images` and `calls`: of each act; `written`: bytes added to the
    store."""

    trained: Counter[str] = field(default_factory=Counter)
    scored: Counter[str] = field(default_factory=Counter)
    observed: Counter[str] = field(default_factory=Counter)
    images: Counter[Act] = field(default_factory=Counter)
    calls: Counter[Act] = field(default_factory=Counter)
    written: int = 0

    @property
    def passes(self) -> Counter[str]:
        """The passes of all kinds together, by split, as `backbone_images` of a result has them."""
        return self.trained + self.scored + self.observed


def walk(anatomy: Anatomy, demand: RunGroup, features: Features, stock: Stock) -> Tally:
    """Return the counts of a run of `demand` with this store, and add to `stock` what the run stores."""
    walker = _Walk(anatomy, demand, features, stock)
    walker.go()
    return walker.tally


def acts(anatomy: Anatomy, demand: RunGroup) -> frozenset[Act]:
    """Return all acts of such runs, with an empty store and with one that an earlier run has filled."""
    features = demand.experiment.features
    stock = Stock(limit=features.shelf.limit_bytes, writable=True)
    return frozenset().union(*(walk(anatomy, demand, features, stock).calls for _ in range(2)))


class _Walk:
    def __init__(self, anatomy: Anatomy, demand: RunGroup, features: Features, stock: Stock) -> None:
        self.tally = Tally()
        self._anatomy = anatomy
        self._demand = demand
        self._features = features
        self._stock = stock
        self._experiment = demand.experiment
        self._counts = {**demand.images, **demand.shifts}
        self._number = 0
        self._kinds: frozenset[Kind] | None = None
        self._sources: dict[str, Reads] = {}
        self._memory_left = 0.0

    def go(self) -> None:
        for number, phase in enumerate(self._anatomy.phases):
            self._number = number
            reads = {split: self._source(split) for split in ("train", "val") if split in self._counts}
            if phase.solved:
                self._solve(reads)
            else:
                self._fit(phase, reads)
            if phase.first:
                self._score()
        self._score(times=self._anatomy.phases[-1].seeds)
        if self._demand.shifts or self._demand.alphas:
            self._score_later()

    def _solve(self, reads: dict[str, Reads]) -> None:
        for split, source in reads.items():
            self._tabulate(split, source)
        self._step("solve", "table", self._rows("train"))

    def _fit(self, phase: PhaseFacts, reads: dict[str, Reads]) -> None:
        reads = {split: self._probed(phase, split, source) for split, source in reads.items()}
        trainer = self._experiment.trainer
        self._step("step", reads["train"], self._counts["train"], settings=phase.settings)
        if reads["train"] == "images":
            self.tally.trained["train"] += trainer.epochs * self._counts["train"] * phase.seeds
        if "val" in reads:
            looks = trainer.epochs if phase.settings == 1 else 1 + trainer.epochs * (trainer.keep == "best")
            self._look("val", reads["val"], times=phase.settings * looks)

    def _probed(self, phase: PhaseFacts, split: str, source: Reads) -> Reads:
        """Return what the phase reads of a split, and count a computation of the head's input if `phases.fit_phases`
        would compute it once."""
        stored = source == "observed" and self._views(split) <= 1
        augmented = split == "train" and self._experiment.data.augment != "none"
        from_images = source == "images" and not augmented and phase.frozen is None
        num_bytes = self._counts[split] * self._anatomy.width * 4
        if not phase.probe or not (stored or from_images) or num_bytes > self._features.memory_gib * _GIB:
            return source
        self._tabulate(split, source)
        return "table"

    def _score(self, *, times: int = 1) -> None:
        for split in ("val", "test"):
            if split in self._counts:
                self._look(split, self._source(split), times=times)

    def _score_later(self) -> None:
        """Count what `shift/scoring.py` does: test images and shifts are shown to the tuned, the first phase's and the
        interpolated models, and validation images to the last, and features of the bare backbone are compared."""
        alphas = self._demand.alphas * self._anatomy.tunes
        splits = ["test", *self._demand.shifts]
        for split in splits:
            if not self._anatomy.dense:
                self._bare(split)
            self._look(split, self._source(split), times=1 + alphas)
        if alphas and "val" in self._counts:  # without, the run refuses to choose an alpha
            self._look("val", self._source("val"), times=alphas)
        if self._anatomy.phases[0].first:
            self._number = 0
            for split in splits:
                self._look(split, self._source(split), times=1)

    def _bare(self, split: str) -> None:
        """Count the pass of the bare backbone, whose features are stored like those that a linear head reads."""
        name = f"{self._demand.keys[split]}-{self._anatomy.names.get('features', 'features')}"
        if name in self._stock.held:
            return
        rows = self._counts[split]
        is_stored = self._features.use != "never" and self._stock.has_room(rows * self._anatomy.width * 4)
        self._act("score", "images", images=rows, calls=1)
        (self.tally.observed if is_stored else self.tally.scored)[split] += rows
        if is_stored:
            self._stock.add([name])

    def _look(self, split: str, source: Reads, *, times: int) -> None:
        self._act("score", source, images=times * self._counts[split], calls=times)
        if source == "images":
            self.tally.scored[split] += times * self._counts[split]

    def _tabulate(self, split: str, source: Reads) -> None:
        rows = self._counts[split] if self._kinds is None else self._rows(split)
        self._act("tabulate", source, images=rows, calls=1)
        if source == "images":
            self.tally.scored[split] += rows

    def _step(self, what: Literal["step", "solve"], source: Reads, images: int, *, settings: int = 1) -> None:
        """Count steps; each of several settings takes one of its own, as if they shared nothing."""
        trainer = self._experiment.trainer
        times, steps = trainer.epochs * settings, -(-images // trainer.batch_size)
        self._act(what, source, images=times * images, calls=times * steps)

    def _act(self, what: str, source: Reads, *, images: int, calls: int) -> None:
        act = Act(what, self._number, source)
        self.tally.images[act] += images
        self.tally.calls[act] += calls

    def _rows(self, split: str) -> int:
        """Return the number of rows that the store holds of a split."""
        return self._counts[split] * self._views(split)

    def _views(self, split: str) -> int:
        augmented = split == "train" and self._experiment.data.augment != "none"
        return max(1, self._features.views) if augmented else 1

    def _source(self, split: str) -> Reads:
        """Return what a split is read as, decided like `Store.source`: once for each split as long as the same kinds
        are frozen."""
        frozen = self._anatomy.phases[self._number].frozen
        if frozen != self._kinds or not self._sources:
            self._kinds = frozen
            self._sources.clear()
            self._memory_left = self._features.memory_gib * _GIB
        if split not in self._sources:
            self._sources[split] = "images" if self._is_refused(split) else self._stored(split)
        return self._sources[split]

    def _is_refused(self, split: str) -> bool:
        fresh = split == "train" and self._experiment.data.augment != "none" and not self._features.views
        return self._kinds is None or fresh or self._features.use == "never"

    def _stored(self, split: str) -> Reads:
        """Return "observed" if observations are found or computed now, or "images" if there is no room for them."""
        needed, rows = self._kinds, self._rows(split)
        names = {kind: f"{self._demand.keys[split]}-{name}" for kind, name in self._anatomy.names.items()}
        size = {kind: rows * num_bytes for kind, num_bytes in self._anatomy.entries.items()}
        there = {kind for kind in names if names[kind] in self._stock.held}
        if f"{self._demand.keys[split]}-contexts" in self._stock.held:  # those of all layers serve every run
            there |= names.keys() & {"contexts"}
        also = set() if "tokens" in needed else set(self._features.also) & names.keys() - there
        kept = {kind for kind in sorted(needed) if self._fits(size[kind])}
        missing = (needed | also) - there
        placed = {kind for kind in missing if self._stock.has_room(size[kind])}
        if (needed - there) - placed - kept:
            return "images"
        if computed := placed | (missing & kept):
            self._act("observe", "images", images=rows, calls=1)
            self.tally.observed[split] += rows
            self.tally.written += sum(size[kind] for kind in placed)
            self._stock.add(names[kind] for kind in placed)
        if needed - computed:
            self._act("find", "observed", images=rows, calls=1)
        return "observed"

    def _fits(self, num_bytes: int) -> bool:
        fits = num_bytes <= self._memory_left
        self._memory_left -= num_bytes * fits
        return fits
