"""This module turns a config, which is one point of a sweep, into checked components with a name and an identity."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from peft_vision.backbone.load import Backbone
from peft_vision.backbone.observation import Kind
from peft_vision.core.config import ConfigError, build_all, nearest, shortened
from peft_vision.core.distributed import World
from peft_vision.core.identity import CODE, digest, files, first_identity, hashed, located, plain, user_code
from peft_vision.core.trust import check_targets
from peft_vision.data.base import Data
from peft_vision.data.images import Images
from peft_vision.data.reading import file_sum
from peft_vision.features.fill import ObservationPass
from peft_vision.features.store import Features, RunFacts, Store
from peft_vision.head.base import Head
from peft_vision.interpolation.wise_ft import Interpolation
from peft_vision.method.base import Method
from peft_vision.models.model import Model
from peft_vision.objective.base import Objective
from peft_vision.objective.single_label import ONE_CLASS
from peft_vision.ood.base import OOD
from peft_vision.ood.elsewhere import Elsewhere
from peft_vision.ood.match import build_sets, check_sets
from peft_vision.optimizer.base import Optimizer, Solver
from peft_vision.runs.first_version import trained_otherwise
from peft_vision.runs.run import Run
from peft_vision.schedule.schedules import Schedule
from peft_vision.tracker.trackers import Tracker
from peft_vision.training.checks import check_mixing, check_seeds, check_stage
from peft_vision.training.probe import check_head, check_objective
from peft_vision.training.trainer import Trainer

KINDS = {
    "backbone": Backbone,
    "data": Data,
    "method": Method,
    "head": Head,
    "objective": Objective,
    "optimizer": Optimizer,
    "probe": Optimizer,
    "schedule": Schedule,
    "trainer": Trainer,
    "features": Features,
    "tracker": Tracker,
    "interpolation": Interpolation,
}
LATER = frozenset(("tracker", "interpolation"))  # groups that act on the result of a training, not on the training
_TRAINING = sorted(KINDS.keys() - LATER)
ADDED = {"objective": ONE_CLASS}
"""The groups that were added later, with the component that says of a run what it was before: the identity does not
hold it, and a config without the group means it."""
OTHER_KEYS = ("task", "seed", "device", "runs", "ood")
_DIGITS = 12
"""The number of an identity's digits in a folder's name; 8 are too few to distinguish a million settings."""
_FIRST_DIGITS = 8  # up to version 0.1.0
_SEED = TypeAdapter(Annotated[int, Field(ge=0)])


@dataclass(frozen=True)
class Experiment:
    """The checked components of a run. `composed`: the plain values they were built from, as written; `config`: the
    same values as parsed; `choices`: the option chosen in each group."""

    backbone: Backbone
    data: Data
    method: Method
    head: Head
    objective: Objective
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
    composed: Mapping[str, Any]
    config: Mapping[str, Any]
    choices: Mapping[str, str]

    @classmethod
    def build(cls, config: Mapping[str, Any], choices: Mapping[str, str]) -> "Experiment":
        """Build the components and check everything that can be checked before weights or images are read. Raise
        ConfigError with all values that are wrong, or else with the first check that fails."""
        experiment = cls.of(config, choices)
        experiment.check()
        return experiment

    @classmethod
    def of(cls, config: Mapping[str, Any], choices: Mapping[str, str]) -> "Experiment":
        """Build the components, checking each value but nothing of the machine. Raise ConfigError with all faults."""
        config = {**ADDED, **config}
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
        components |= {group: located(components[group]) for group in KINDS}
        understood = {group: plain(config[group], components[group]) for group in KINDS}
        seed = _SEED.validate_python(config["seed"])
        code = user_code(components[group] for group in _TRAINING)
        return cls(
            **components,
            seed=seed,
            device=config["device"],
            composed=config,
            config=shortened({**config, **understood, "seed": seed}) | ({CODE: code} if code else {}),
            choices=choices,
        )

    def check(self) -> None:
        """Run all of `checks`; raise the first ConfigError."""
        for check in self.checks().values():
            check()

    def checks(self) -> dict[tuple[str, ...], Callable[[], None]]:
        """Return checks that raise ConfigError if the config cannot work, by the config groups that they depend on."""
        return {
            ("objective", "head", "trainer", "ood", "interpolation", "data"): self._check_objective,
            ("backbone",): self.backbone.check,
            ("method",): self.method.check,
            ("data",): self.data.check,
            ("ood",): partial(check_sets, self.ood),
            ("features", "data"): partial(self.features.check, self.data.augment),
            ("optimizer", "probe", "method", "head", "objective", "trainer"): self._check_fitting,
            ("data", "trainer", "optimizer", "probe", "method", "interpolation"): self._check_stage,
            ("seed", "backbone", "optimizer", "probe", "method"): self._check_seeds,
            ("tracker",): self.tracker.check,
        }

    def _check_fitting(self) -> None:
        for group, optimizer in self.fitting.items():
            if isinstance(optimizer, Solver):
                check_head(optimizer, self.head, group=group)
                check_objective(optimizer, self.objective, group=group)
        check_mixing(self.trainer, self.objective, self.fitting)

    def _check_seeds(self) -> None:
        check_seeds(self.fitting, self.backbone, self.seed)

    def _check_objective(self) -> None:
        self.objective.check_smoothing(self.trainer.label_smoothing)
        self.objective.check_head(self.head)
        self.objective.check_resize(self.data.resize)
        own = [name for name, ood in self.ood.items() if isinstance(ood, Elsewhere)]
        if self.objective.labels_are != "classes" and (others := sorted(self.ood.keys() - own)):
            raise ConfigError(
                f"ood.{others[0]}: its pictures have one class each (objective=single_label)\n"
                "ood=elsewhere ood.elsewhere.path=FOLDER takes your own data of the run's kind"
            )

    def _check_stage(self) -> None:
        check_stage(self.data.stage, trainer=self.trainer, optimizers=self.fitting, interpolation=self.interpolation)

    @property
    def reads(self) -> frozenset[Kind]:
        """Return the kinds of observation that the run reads of a backbone that does not change."""
        return self.method.reads() if self.head.reads == "features" else frozenset({self.head.reads})

    @property
    def fitting(self) -> dict[str, Optimizer]:
        """Return those of `optimizers` that fit this method."""
        probes = self.method.probe_first
        return {group: optimizer for group, optimizer in self.optimizers.items() if group == "optimizer" or probes}

    @property
    def optimizers(self) -> dict[str, Optimizer]:
        """Return both optimizers by config group: `probe` fits the head before all else, `optimizer` the rest."""
        return {"optimizer": self.optimizer, "probe": self.probe}

    @cached_property
    def identity(self) -> str:
        """Return a digest of everything that can change the training, the seed included."""
        return digest({**self.setting, "seed": self.seed})

    @cached_property
    def setting(self) -> dict[str, dict[str, Any]]:
        """Return everything but the seed that can change the training, by group, in canonical form: not the tracker,
        the device, fields that cannot change a result, or what is scored afterwards. The digests of the user's own
        components are included."""
        code = {CODE: self.user_code} if self.user_code else {}
        return self._hashed() | code

    @property
    def user_code(self) -> dict[str, str]:
        """Return the digests of the sources of the user's own components, by dotted name."""
        return next((digests for key, digests in self.config.items() if key == CODE), {})

    @cached_property
    def first_identity(self) -> str:
        """Return the identity of this run as versions up to 0.1.0 computed it."""
        said = [group for group in _TRAINING if group not in ADDED or group in self.setting]
        return first_identity({group: self.composed[group] for group in said}, self.seed)

    @property
    def name(self) -> str:
        """Return the name of the run's folder, such as vpt_deep-vit_micro-digits-s0-1a2b3c4d5e6f."""
        return f"{self._stem}-{self.identity[:_DIGITS]}"

    @property
    def _stem(self) -> str:
        parts = [self.choices[group].replace("/", "_") for group in ("method", "backbone", "data")]
        return "-".join([*parts, f"s{self.seed}"])

    @cached_property
    def run(self) -> Run:
        """Return the run in the folder of this name, else in that of the name that version 0.1.0 gave it, or that it
        had before its files were moved, unless 0.1.0 trained something else with these values; else a run not begun."""
        runs = Path(self.config["runs"]).expanduser()
        current, first = runs / self.name, runs / f"{self._stem}-{self.first_identity[:_FIRST_DIGITS]}"
        if current.exists():
            return Run(current)
        earlier = [first] if first.is_dir() and self._has_begun(Run(first)) else self._moved(runs)
        return Run(next((folder for folder in earlier if self._trained_alike(folder)), current))

    def is_of(self, config: Mapping[str, Any]) -> bool:
        """Return whether a config that an earlier command resolved means the same training, wherever its files were."""
        try:
            check_targets(config, "config.yaml")
            other = Experiment.of(config, self.choices)
        except ConfigError:
            return False
        same_code = CODE not in config or config[CODE] == self.setting.get(CODE)  # 0.1.0 recorded none
        return same_code and (other.seed, other._placeless) == (self.seed, self._placeless)

    @property
    def _placeless(self) -> dict[str, dict[str, Any]]:
        return self._hashed(places=False)

    def _hashed(self, *, places: bool = True) -> dict[str, dict[str, Any]]:
        """Return the hashed values of every group of the training that says more than runs said before it was added."""
        values = {group: hashed(getattr(self, group), places=places) for group in _TRAINING}
        return {group: node for group, node in values.items() if group not in ADDED or node != ADDED[group]}

    def _trained_alike(self, folder: Path) -> bool:
        """Return whether today's version would train what the run in `folder` trained."""
        if len(folder.name.rpartition("-")[2]) > _FIRST_DIGITS:
            return True
        result = None
        with suppress(ConfigError):  # a damaged one is reported where it is needed
            result = Run(folder).read_result()
        groups = ("method", "backbone", "optimizer", "head", "trainer", "features")
        return not trained_otherwise(**{group: getattr(self, group) for group in groups}, result=result)

    def _has_begun(self, run: Run) -> bool:
        written = run.read_config()
        return written is not None and self.is_of(written)

    def _moved(self, runs: Path) -> Iterator[Path]:
        """Yield folders of the same run on files that were elsewhere: they are gone there, or equal to those here."""
        named_files = [name for group in _TRAINING for name in files(getattr(self, group))]
        for folder in sorted(runs.glob(f"{self._stem}-*")) if named_files else ():
            config = folder / "config.yaml"
            if not config.is_file() or all(name in config.read_text(errors="replace") for name in named_files):
                continue  # the same files under another identity are another setting
            run = Run(folder)
            if self._has_begun(run) and self._is_on_the_same_files(run):
                yield folder

    def _is_on_the_same_files(self, run: Run) -> bool:
        other = Experiment.of(run.read_config(), self.choices)
        ours, theirs = ({group: files(getattr(each, group)) for group in _TRAINING} for each in (self, other))
        if any(len(ours[group]) != len(theirs[group]) for group in _TRAINING):
            return False  # such as a weights file in place of the weights of this package
        result, own = run.read_result(), self.backbone.own_file()
        weights = file_sum(own) if own is not None and own.is_file() else None
        if not any(Path(name).exists() for names in theirs.values() for name in names):
            return result is None or None in (weights, result.checkpoint) or weights == result.checkpoint
        if result is None or weights != result.checkpoint:
            return False
        return result.data.fingerprint == self.data.fingerprint(skipped=result.data.corrupt_images_skipped)


def open_store(
    experiment: Experiment, model: Model, images: Mapping[str, Images], world: World, *, quiet: bool = False
) -> Store:
    """Open the store of what the backbone of `model` computes from `images`, which are given by split."""
    backbone, trainer = experiment.backbone, experiment.trainer
    bits = {} if backbone.frozen_bits is None else {"frozen_bits": backbone.frozen_bits}
    return Store(
        experiment.features,
        model=model,
        splits=images,
        run=RunFacts(
            origin={
                "weights": model.recipe.backbone["hash"],
                "backbone": backbone.name,
                "architecture": backbone.architecture,
                "pool": backbone.pool,
                "preprocessing": model.recipe.preprocessing.record(),
                "precision": trainer.arithmetic(world.device),
                **bits,
            },
            method=experiment.choices["method"],
            augment=experiment.data.augment,
        ),
        observed_by=ObservationPass(
            batch_size=trainer.eval_batch_size,
            workers=experiment.data.workers,
            autocast=trainer.autocast(world.device),
            device=world.device,
        ),
        quiet=quiet,
    )


def _faults(config: Mapping[str, Any]) -> list[str]:
    """Return the faults of the values that belong to no component; raise ConfigError if keys are unknown or missing."""
    if "experiment" in config:
        raise ConfigError("experiment: begin its file with '# @package _global_', else its values reach nothing")
    known = [*KINDS, *OTHER_KEYS]
    for key in config:
        if key not in known and key != CODE:
            raise ConfigError(f"unknown key {key}; a run takes {', '.join(known)}{nearest(key, known)}")
    for key in known:
        if key not in config or config[key] is None:
            raise ConfigError(f"{key}: missing")
    seed, device, runs = config["seed"], config["device"], config["runs"]
    right = {
        f"seed: got {seed!r}, should be a whole number, 0 or more": _is_seed(seed),
        f"device: got {device!r}, should be auto, cpu, cuda, cuda:N or mps": isinstance(device, str),
        f"runs: got {runs!r}, should be a folder": isinstance(runs, str),
    }
    return [fault for fault, is_right in right.items() if not is_right]


def _is_seed(value: Any) -> bool:
    """Return whether a value is a seed; a number in a string counts, as an environment variable holds it."""
    try:
        _SEED.validate_python(value)
    except ValidationError:
        return False
    return not isinstance(value, bool)
