"""This module finds what decides which images pass a model's backbone: what is frozen in each phase, and what fits the
phase."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from peft_vision.backbone.observation import Kind
from peft_vision.core.seeding import derive
from peft_vision.models.model import Model
from peft_vision.optimizer.base import Solver
from peft_vision.runs.experiment import Experiment


@dataclass(frozen=True)
class PhaseFacts:
    """The facts of one phase that decide its cost. `frozen`: kinds of observation that can be stored, None if none can;
    `probe`: whether the head alone trains, on features that are the same in every step; `first`: whether it is the
    phase that fits the head before all else; `solved`: whether a solver fits it."""

    frozen: frozenset[Kind] | None
    probe: bool
    first: bool
    solved: bool


@dataclass(frozen=True)
class Anatomy:
    """The facts of a model that decide its cost. `entries`: bytes of an image in the store, by kind; `names`: suffixes
    of the names of their files, by kind; `width`: of the features that the head reads; `trained`: number of trained
    parameters, head included."""

    phases: tuple[PhaseFacts, ...]
    entries: Mapping[Kind, int]
    names: Mapping[Kind, str]
    width: int
    trained: int


def anatomy(model: Model, experiment: Experiment) -> Anatomy:
    """Return the anatomy of a fresh `model`, which is in its last phase afterwards."""
    shapes = model.encoder.observed_shapes(depth=model.depth)
    counts = model.parameter_counts()
    phases = [_facts(model, experiment)]
    while model.begun < len(model.phases):
        model.begin_next_phase(seed=derive(experiment.seed, "initialisation"))
        phases.append(_facts(model, experiment))
    return Anatomy(
        phases=tuple(phases),
        entries={kind: torch.Size(shape).numel() * model.observed_type.itemsize for kind, shape in shapes.items()},
        names={kind: f"{kind}{model.depth}" if kind == "tokens" else kind for kind in shapes},
        width=model.readout.width,
        trained=counts.method + counts.head,
    )


def _facts(model: Model, experiment: Experiment) -> PhaseFacts:
    optimizer = experiment.optimizers[model.phase.group]
    return PhaseFacts(
        frozen=model.frozen,
        probe=model.phase.probe and not model.phase.live_readout,
        first=model.phase.group == "probe",
        solved=isinstance(optimizer, Solver),
    )
