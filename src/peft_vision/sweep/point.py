"""This module describes a point of a sweep before its run, and its outcome afterwards."""

import json
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, Node, OmegaConf, ValueNode, open_dict, read_write
from omegaconf._utils import split_key

from peft_vision.core.composition import Request
from peft_vision.core.config import Busy, ConfigError, build
from peft_vision.runs.experiment import Experiment
from peft_vision.runs.run_records import Result
from peft_vision.runs.served import Served
from peft_vision.shift.scoring import is_scored
from peft_vision.task.base import Task
from peft_vision.task.shown import is_settled


@dataclass(frozen=True)
class Point:
    """A point of a sweep, which is the command of one run. `overrides`: all overrides of the command; `label`: those
    that distinguish the point from the others. `experiment`: None if the task does not train. `retry`: whether a run
    that failed before is tried again."""

    overrides: tuple[str, ...]
    label: str
    experiment: Experiment | None
    retry: bool

    @classmethod
    def of(cls, overrides: Sequence[str], label: str, request: Request) -> "Point":
        """Return the point of a composed request. ConfigError for values that are invalid by themselves; checks that
        combine values come later."""
        task = build(request.config["task"], Task, "task")
        experiment = Experiment.of(request.config, request.choices) if task.trains else None
        return cls(tuple(overrides), label, experiment, retry=task.retries)

    def folder(self) -> Path | None:
        """Return the folder of the point's run, None for a point that trains nothing."""
        return None if self.experiment is None else self.experiment.run.folder

    def ended_before(self, served: Served) -> "PointResult | None":
        """Return the outcome of an earlier run of this point, or None if there is still something to do."""
        if self.experiment is None:
            return None
        run = self.experiment.run
        try:
            result = served.result(self.experiment)
            if result is not None:
                over = is_scored(self.experiment, result) and is_settled(self.experiment)
                return PointResult(self, result, None) if over else None
            failure = run.read_failure()
        except ConfigError as error:  # such as a damaged file, or images that have changed
            return PointResult(self, None, error)
        if failure is None or self.retry:
            return None
        return PointResult(self, None, ConfigError(f"failed before: {failure}"))

    def has_failed(self) -> bool:
        """Return whether the point's run has recorded a failure, which is tried again only with task.retry."""
        return self.experiment is not None and (self.experiment.run.folder / "failed.json").is_file()

    def ended(self, fault: Exception | None) -> "PointResult":
        """Return the outcome of the point, now that its process has ended."""
        try:
            result = None if self.experiment is None else self.experiment.run.read_result()
        except ConfigError as error:
            return PointResult(self, None, error)
        if fault is None and result is None and self.experiment is not None:
            fault = ConfigError(f"ended without a result; {self.experiment.run.folder}")
        return PointResult(self, None if fault else result, fault)


@dataclass(frozen=True)
class PointResult:
    """The outcome of a point. `result`: the record in the run's folder, None if there is none or the task does not
    train. `fault`: the error that it failed with, or None."""

    point: Point
    result: Result | None
    fault: Exception | None

    def is_busy(self) -> bool:
        """Return whether another process is working on the run, which a second launch can wait for."""
        return isinstance(self.fault, Busy) and self.point.experiment is not None


def labels(points: Sequence[Sequence[str]]) -> list[str]:
    """Return for each point the overrides that not all points share, or all for a single point; pruners are left
    out."""
    common = set.intersection(*map(set, points)) if len(points) > 1 else set()
    return [
        " ".join(word for word in point if word not in common and not word.startswith("task.pruner="))
        for point in points
    ]


def also_read(points: Sequence[Point]) -> list[str]:
    """Return the override that makes one pass of the backbone compute all that any of the runs reads, since a probe
    cannot know that a later run reads more than features. None is needed if all runs read the same, or if a command
    sets features.also."""
    trained = [point for point in points if point.experiment is not None]
    reads = {point.experiment.reads for point in trained}
    is_set = any(word.partition("=")[0].lstrip("+") == "features.also" for point in trained for word in point.overrides)
    return [] if is_set or len(reads) < 2 else [f"features.also=[{','.join(sorted(frozenset.union(*reads)))}]"]


@dataclass(frozen=True)
class _Composed:
    """A combination of groups as Hydra composes it. `hydra`: Hydra's own node; `choices`: its options by group;
    `config`: the rest; `settled`: those keys of `config`, with their plain values, that refer to no others, packed,
    because each point gets values of its own."""

    hydra: DictConfig
    choices: dict[str, str | None]
    config: DictConfig
    settled: bytes


class Composer:
    """A composer that lets Hydra compose each combination of config groups once, from files that are read once, and
    sets the remaining values of each point, as Hydra does, before it puts back what was there."""

    def __init__(self, loader: ConfigLoaderImpl, sweep: DictConfig) -> None:
        self._loader = copy(loader)
        self._loader.repository = _ReadOnce(loader.repository)
        self._sweep = sweep
        self._parser = OverridesParser.create(config_loader=loader)
        self._overrides: dict[str, tuple[Override, bool]] = {}
        self._of_groups: dict[tuple[str, ...], _Composed] = {}

    def request(self, overrides: Sequence[str]) -> Request:
        """Compose the request of one point; raise what Hydra raises if the overrides do not compose."""
        parsed = [self._parsed(word) for word in overrides]
        groups = tuple(word for word, (_, is_value) in zip(overrides, parsed, strict=True) if not is_value)
        if groups not in self._of_groups:
            self._of_groups[groups] = self._composed(groups)
        composed = self._of_groups[groups]
        values = [override for override, is_value in parsed if is_value]
        keys = {override.key_or_group for override in values}
        settled = pickle.loads(composed.settled)
        for key in keys:
            settled.pop(split_key(key)[0], None)
        state = HydraConfig.instance()
        before, state.cfg = state.cfg, composed.hydra  # for values such as ${hydra:runtime.choices.method}
        try:
            with _restored(composed.config, keys):
                self._loader._apply_overrides_to_config(values, composed.config)
                return Request.of(composed.config, composed.choices, settled)
        finally:
            state.cfg = before

    def _parsed(self, word: str) -> tuple[Override, bool]:
        """Parse each word once, since the points of a sweep have most of theirs in common, and return with it whether
        it sets a value, where others choose an option of a group."""
        if word not in self._overrides:
            (override,) = self._parser.parse_overrides([word])
            is_group = self._loader.repository.group_exists(override.key_or_group)
            self._overrides[word] = (override, isinstance(override.value(), dict) or not is_group)
        return self._overrides[word]

    def _composed(self, groups: Sequence[str]) -> _Composed:
        config = self._loader.load_sweep_config(self._sweep, list(groups))
        hydra = OmegaConf.masked_copy(config, "hydra")
        with read_write(config), open_dict(config):
            del config["hydra"]
        plain = OmegaConf.to_container(config)
        settled = {key: value for key, value in plain.items() if _is_settled(value)}
        return _Composed(hydra, dict(hydra.hydra.runtime.choices), config, pickle.dumps(settled))


def _is_settled(value: Any) -> bool:
    """Return whether a plain value, with all that it holds, needs none of other keys and is not missing."""
    if isinstance(value, dict | list):
        return all(map(_is_settled, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, str) or ("${" not in value and value != "???")


@contextmanager
def _restored(config: DictConfig, keys: Iterable[str]) -> Iterator[None]:
    """Put back, after the block, what `config` held at its dotted `keys`. To keep the values on the way to these alone
    takes a fraction of the time that a copy of all takes, which a grid of hundreds of points would make of each."""
    contents: dict[int, tuple[DictConfig, dict[Any, Node]]] = {}
    values: list[tuple[Node, Any]] = []
    for key in keys:
        node: Node | None = config
        for name in split_key(key):
            content = node.__dict__["_content"] if isinstance(node, DictConfig) else None
            if not isinstance(content, dict):
                break
            contents.setdefault(id(node), (node, dict(content)))
            node = content.get(name)
        if isinstance(node, ValueNode):
            values.append((node, node.__dict__["_val"]))
        elif node is not None:  # a whole group or a list, of which any part may change
            values.append((node, deepcopy(node.__dict__["_content"])))
    try:
        yield
    finally:
        for container, content in contents.values():
            container.__dict__["_content"] = content
        for node, value in values:
            node.__dict__["_val" if isinstance(node, ValueNode) else "_content"] = value


class _ReadOnce(CachingConfigRepository):
    """A repository that reads each file once for all configs. Hydra copies its repository for every config; this one is
    shared instead, and returns copies of what it read, because Hydra composes a config out of these very nodes."""

    def __init__(self, delegate: IConfigRepository) -> None:
        super().__init__(delegate)
        self._packed: dict[str, bytes] = {}  # unpacked in a third of the time of a deepcopy

    def load_config(self, config_path: str) -> ConfigResult | None:
        if config_path not in self._packed:
            self._packed[config_path] = pickle.dumps(super().load_config(config_path), pickle.HIGHEST_PROTOCOL)
        return pickle.loads(self._packed[config_path])

    def __deepcopy__(self, memo: dict[int, Any]) -> "_ReadOnce":
        return self


_NAMED = 3  # points of one fault, and faults of data, that a message lists


def check(experiment: Experiment, checked: dict[str, str | None]) -> None:
    """Raise ConfigError if an experiment cannot run. A check that several points share runs once; its fault, or None,
    is kept in `checked`."""
    for groups, run_check in experiment.checks().items():
        key = json.dumps([groups, *(experiment.config[group] for group in groups)], sort_keys=True, default=str)
        if key not in checked:
            try:
                run_check()
                checked[key] = None
            except ConfigError as error:
                checked[key] = str(error)
        if checked[key] is not None:
            raise ConfigError(checked[key])


def account(wrong: Mapping[str, Sequence[str]], total: int) -> str:
    """Return a message with each fault of `wrong` once and the points that have it; a fault that all `total` points
    share is given in full and alone."""
    if len(wrong) == 1 and len(next(iter(wrong.values()))) == total:
        return next(iter(wrong))
    lines = [f"{sum(map(len, wrong.values()))} of the sweep's {total} points are wrong, and nothing was started"]
    for message, concerned in wrong.items():
        more = f" and {len(concerned) - _NAMED} more" if concerned[_NAMED:] else ""
        lines.append(f"  {'; '.join(concerned[:_NAMED])}{more}: {message.splitlines()[0]}")
    return "\n".join(lines)


def by_data(points: Sequence[Sequence[str]]) -> dict[str, list[Sequence[str]]]:
    """Group points by their overrides of data; the keys leave out the overrides that all groups share."""
    found: dict[tuple[str, ...], list[Sequence[str]]] = {}
    for overrides in points:
        words = tuple(word for word in overrides if word.lstrip("+").startswith(("data=", "data.")))
        found.setdefault(words, []).append(overrides)
    common = set.intersection(*map(set, found)) if len(found) > 1 else set()
    return {" ".join(word for word in words if word not in common): members for words, members in found.items()}


def account_of_data(wrong: Mapping[str, str], total: int) -> str:
    """Return a message about the faults of `total` choices of data, by the overrides that choose them; if every choice
    is wrong it gives the first fault in full."""
    names = list(wrong)
    if len(wrong) < total:
        lines = [f"{len(wrong)} of the sweep's {total} choices of data are wrong, and nothing was started"]
        lines += [f"  {name}: {wrong[name].splitlines()[0]}" for name in names[:_NAMED]]
        return "\n".join([*lines, *([f"  and {'; '.join(names[_NAMED:])}"] if names[_NAMED:] else [])])
    first, *others = dict.fromkeys(wrong.values())
    return "\n".join([first, *([f"nor can the sweep use its other {total - 1} choices of data"] if others else [])])
