"""One point of a sweep: a config turned into checked components, with its name and identity."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer

from peft_vision.backbone.load import Backbone
from peft_vision.config import ConfigError, build_all, lasting, locate, nearest
from peft_vision.data.base import Data
from peft_vision.data.images import Images
from peft_vision.distributed import World
from peft_vision.features.store import Features, Store
from peft_vision.head import Head
from peft_vision.interpolation import Interpolation
from peft_vision.method.base import Method
from peft_vision.model import Model
from peft_vision.ood.base import OOD
from peft_vision.ood.opened import build_sets, check_sets
from peft_vision.optimizer.base import Optimizer, Solver
from peft_vision.probe import check_head
from peft_vision.run import Run, identity
from peft_vision.schedule import Schedule
from peft_vision.seeding import derive
from peft_vision.stage import check_stage
from peft_vision.tracker import Tracker
from peft_vision.trainer import Trainer

KINDS = {
    "backbone": Backbone,
    "data": Data,
    "method": Method,
    "head": Head,
    "optimizer": Optimizer,
    "probe": Optimizer,
    "schedule": Schedule,
    "trainer": Trainer,
    "features": Features,
    "tracker": Tracker,
    "interpolation": Interpolation,
}
LATER = frozenset(("tracker", "interpolation"))
"""Groups that act on what a training came to, and not on the training."""
OTHER_KEYS = ("task", "seed", "device", "runs", "ood")


@dataclass(frozen=True)
class Experiment:
    """Checked components. `config`: the plain values they were built from; `choices`: the option of each group."""

    backbone: Backbone
    data: Data
    method: Method
    head: Head
    optimizer: Optimizer
    probe: Optimizer
    schedule: Schedule
    trainer: Trainer
    features: Features
    tracker: Tracker
    interpolation: Interpolation
    ood: Mapping[str, OOD]
    seed: int
    device: str
    config: Mapping[str, Any]
    choices: Mapping[str, str]

    @classmethod
    def build(cls, config: Mapping[str, Any], choices: Mapping[str, str]) -> "Experiment":
        """Checked for everything that can be before weights or images are read. ConfigError with all faults."""
        experiment = cls.of(config, choices)
        for check in experiment.checks().values():
            check()
        return experiment

    @classmethod
    def of(cls, config: Mapping[str, Any], choices: Mapping[str, str]) -> "Experiment":
        """The values are right one by one, and nothing of the machine has been looked at."""
        faults = _faults(config)
        components: dict[str, Any] = {}
        try:
            components |= build_all(config, KINDS)
        except ConfigError as error:
            faults.append(str(error))
        try:
            components["ood"] = build_sets(config["ood"])
        except ConfigError as error:
            faults.append(str(error))
        if faults:
            raise ConfigError("\n".join(faults))
        return cls(**components, seed=config["seed"], device=config["device"], config=config, choices=choices)

    def checks(self) -> dict[tuple[str, ...], Callable[[], None]]:
        """What raises ConfigError where things cannot work, by the groups of the config that it depends on."""
        return {
            ("backbone",): self.backbone.check,
            ("data",): self.data.check,
            ("ood",): partial(check_sets, self.ood),
            ("features", "data"): partial(self.features.check, self.data.augment),
            ("optimizer", "probe", "method", "head"): self._check_solvers,
            ("data", "trainer", "optimizer", "probe", "method", "interpolation"): self._check_stage,
            ("tracker",): self.tracker.check,
        }

    def _check_solvers(self) -> None:
        for group, optimizer in self.fitting.items():
            if isinstance(optimizer, Solver):
                check_head(optimizer, self.head, group=group)

    def _check_stage(self) -> None:
        check_stage(self.data.stage, trainer=self.trainer, optimizers=self.fitting, interpolation=self.interpolation)

    @property
    def fitting(self) -> dict[str, Optimizer]:
        """Those of `optimizers` that this method is fitted by."""
        probes = self.method.probe_first
        return {group: own for group, own in self.optimizers.items() if group == "optimizer" or probes}

    @property
    def optimizers(self) -> dict[str, Optimizer]:
        """By config group: of all phases but one, and of the one that fits the head before all else."""
        return {"optimizer": self.optimizer, "probe": self.probe}

    @property
    def identity(self) -> str:
        """Stands for all that can change the training."""
        return identity({**self.setting, "seed": self.seed})

    @property
    def setting(self) -> dict[str, dict[str, Any]]:
        """All that can change the training but the seed, by group: not the tracker, the device or where files lie, and
        not what is scored afterwards."""
        groups = {}
        for group in KINDS.keys() - LATER:
            values = dict(self.config[group])
            target = values.pop("_target_")
            groups[group] = {"_target_": target, **lasting(locate(target, group), values)}
        return groups

    @property
    def name(self) -> str:
        """Such as vpt_deep-vit_micro-digits-s0-1a2b3c4d."""
        parts = [self.choices[group].replace("/", "_") for group in ("method", "backbone", "data")]
        return "-".join([*parts, f"s{self.seed}", self.identity[:8]])

    @property
    def run(self) -> Run:
        """Its folder."""
        return Run(Path(self.config["runs"]).expanduser() / self.name)


def open_store(
    experiment: Experiment, model: Model, images: Mapping[str, Images], world: World, *, quiet: bool = False
) -> Store:
    """Of what the backbone of `model` shows of `images`, by split."""
    backbone, trainer = experiment.backbone, experiment.trainer
    return Store(
        experiment.features,
        model=model,
        splits=images,
        origin={
            "weights": model.recipe.backbone["hash"],
            "backbone": backbone.name,
            "architecture": backbone.architecture,
            "pool": backbone.pool,
            "preprocessing": model.recipe.preprocessing.record(),
            "precision": str(trainer.computes_in(world.device)),
        },
        method=experiment.choices["method"],
        augment=experiment.data.augment,
        workers=experiment.data.workers,
        batch_size=trainer.eval_batch_size,
        autocast=trainer.autocast(world.device),
        device=world.device,
        quiet=quiet,
    )


def load_backbone(backbone: Backbone, *, seed: int) -> VisionTransformer:
    """Loaded, or drawn from the run's seed where no weights are asked for."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "backbone"))
        return backbone.load()


def _faults(config: Mapping[str, Any]) -> list[str]:
    """What is wrong with the values that belong to no component; raises ConfigError where keys are wrong."""
    if "experiment" in config:
        raise ConfigError("experiment: begin its file with '# @package _global_', else its values reach nothing")
    known = [*KINDS, *OTHER_KEYS]
    for key in config:
        if key not in known:
            raise ConfigError(f"unknown key {key}; a run takes {', '.join(known)}{nearest(key, known)}")
    for key in known:
        if key not in config or config[key] is None:
            raise ConfigError(f"{key}: missing")
    seed, device, runs = config["seed"], config["device"], config["runs"]
    right = {
        f"seed: got {seed!r}, should be a whole number, 0 or more": type(seed) is int and seed >= 0,
        f"device: got {device!r}, should be auto, cpu, cuda, cuda:N or mps": isinstance(device, str),
        f"runs: got {runs!r}, should be a folder": isinstance(runs, str),
    }
    return [fault for fault, is_right in right.items() if not is_right]
