"""This module composes config groups: on their own with Hydra, from the shipped files alone, and as the resolved
request of a command.
"""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, reduce
from importlib.resources import files
from importlib.resources.abc import Traversable
from operator import getitem
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from peft_vision.core.config import CONFIG_DIR, ConfigError, nearest
from peft_vision.core.config_files import options_below
from peft_vision.core.records import read_yaml


def option(group: str, name: str) -> dict[str, Any]:
    """Return the values of `<group>/<name>.yaml`, which may be in the user's config folders if a command is running.

    Raise ValueError if there is no such option.
    """
    if GlobalHydra.instance().is_initialized():
        return _composed(group, name)
    return deepcopy(_shipped(group, name))


@cache
def _shipped(group: str, name: str) -> dict[str, Any]:
    """Compose a shipped option once in a process, since Hydra takes longer than a small model does to adapt."""
    return _composed(group, name)


def _composed(group: str, name: str) -> dict[str, Any]:
    with _hydra():
        try:
            composed = compose(config_name=f"{group}/{name}")
        except (MissingConfigException, ConfigCompositionException) as error:
            known = options(group)
            raise ValueError(f"unknown {group} {name!r}; there are {', '.join(known)}{nearest(name, known)}") from error
    folders = name.split("/")[:-1]  # Hydra puts an option of a folder within the group under the folder's name
    return OmegaConf.to_container(reduce(getitem, folders, composed[group]), resolve=True)


def options(group: str) -> list[str]:
    """Return the names of a group's options, sorted."""
    with _hydra():
        return GlobalHydra.instance().config_loader().get_group_options(group)


_OF_OTHERS = "hf_peft"
"""The method that stands for those of another package, which may not be installed."""


def compared_methods() -> list[str]:
    """Return the methods that are compared where none is named, sorted: all but the one that stands for those of
    another package."""
    return [name for name in options("method") if name != _OF_OTHERS]


_NO_CHOICES = ("hydra", "shared")
"""Top-level groups that a command line does not choose from: Hydra's own, and files that other files begin with."""


def all_options(overrides: list[str], config_dir: str | None) -> dict[str, list[str]]:
    """Return the options of every group that a run chooses from, both sorted; `config_dir` is the user's own folder.

    The folders are listed here, because Hydra copies its whole store for every group that it lists. It still says which
    folders there are, and raises its errors for `overrides` that it cannot compose.
    """
    with initialize_config_dir(config_dir=str(CONFIG_DIR), version_base="1.3"):
        searched = [source.path for source in GlobalHydra.instance().config_loader().get_search_path().get_path()]
        if overrides:
            quoted = str(Path(config_dir or "").absolute()).replace("'", "\\'")
            own = [f"hydra.searchpath=['file://{quoted}']"] if config_dir else []
            composed = compose("config", [*own, *overrides], return_hydra_config=True)
            searched = [f"{source.schema}://{source.path}" for source in composed.hydra.runtime.config_sources]
    found: dict[str, set[str]] = {}
    for path in [*searched, *([f"file://{config_dir}"] if config_dir else [])]:
        scheme, _, place = path.rpartition("://")
        folder = {"": Path, "file": Path, "pkg": _package_folder}.get(scheme, lambda _: None)(place)
        for group, option_name in options_below(folder) if folder is not None and folder.is_dir() else ():
            found.setdefault(group, set()).add(option_name)
    return {group: sorted(found[group]) for group in sorted(found) if group and group.split("/")[0] not in _NO_CHOICES}


def _package_folder(name: str) -> Traversable:
    package, *inside = name.split("/")
    return files(package).joinpath(*inside)


def complete(node: Mapping[str, Any], group: str = "method") -> dict[str, Any]:
    """Return the values of a component of `group`, a method or a tracker, with its `parts`, if it has any, spelled out.

    Parts are names of options of the group, or names with values that override those of `<group>/<name>.yaml`. Raise
    ConfigError for an unknown name, or parts of another form.
    """
    if "parts" not in node or node["parts"] is None:
        return dict(node)
    spelled: dict[str, Any] = {}
    for name, values in _named(node["parts"], group).items():
        if not isinstance(values, Mapping | None):
            raise ConfigError(f"{group}.parts.{name}: got {values!r}, should be values of it, such as {{rank:4}}")
        whole = values if values and "_target_" in values else {**_own(name, group), **(values or {})}
        spelled[name] = complete(whole, group)
    return {**node, "parts": spelled}


def _own(name: Any, group: str) -> dict[str, Any]:
    try:
        return option(group, str(name))
    except ValueError as error:
        raise ConfigError(f"{group}.parts: {error}") from error


_SOME = {"method": "[lora,vqt] or {lora:{rank:4},vqt:{}}", "tracker": "[wandb,tensorboard] or {wandb:{mode:offline}}"}


def _named(parts: Any, group: str) -> Mapping[str, Any]:
    """Return the given values of each part by its name, None for a part without any."""
    if isinstance(parts, Mapping):
        return parts
    names = parts if isinstance(parts, list | tuple) else [parts]
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ConfigError(f"{group}.parts: got {parts!r}, should name each {group} once: {_SOME[group]}")
    return dict.fromkeys(names)


def _hydra():
    """Return a context in which Hydra is that of the running command, or else one that knows the shipped configs."""
    if GlobalHydra.instance().is_initialized():
        return nullcontext()
    return initialize_config_dir(config_dir=str(CONFIG_DIR), version_base="1.3")


def keys_of_every_run() -> list[str]:
    """Return the keys and the groups of config.yaml."""
    said = read_yaml(CONFIG_DIR / "config.yaml")
    return [*said, *(name for entry in said["defaults"] if isinstance(entry, dict) for name in entry)]


def unless_chosen(group: str) -> str:
    """Return the option of `group` that a command has if it chooses none."""
    defaults = read_yaml(CONFIG_DIR / "config.yaml")["defaults"]
    return next(entry[group] for entry in defaults if isinstance(entry, dict) and group in entry)


_USUAL_FOLDER = "image_folder"  # of several data sets that have a path


def owners(group: str, key: str) -> list[str]:
    """Return the options of a config group that have this key: first the one that most people mean, then those that
    need a value for it, then those of the shortest names, which are the plainest."""
    values = {path.stem: _values(path) for path in (CONFIG_DIR / group).glob("*.yaml")} if group else {}
    found = {name: settings[key] for name, settings in values.items() if key in settings}
    return sorted(found, key=lambda name: (name != _USUAL_FOLDER, found[name] != "???", len(name), name))


def _values(path: Path) -> dict[str, Any]:
    """Return the values of an option, with those of the options of the same group that its defaults list names."""
    values = dict(read_yaml(path) or {})
    for start in values.pop("defaults", []):
        if isinstance(start, str) and start != "_self_" and "@" not in start:
            values = {**_values(path.with_name(f"{start}.yaml")), **values}
    return values


@dataclass(frozen=True)
class Request:
    """The resolved config and the chosen group options. `config` is in plain values; `choices` are by group."""

    config: dict[str, Any]
    choices: dict[str, str]

    @classmethod
    def of(
        cls, config: DictConfig, choices: Mapping[str, str | None], settled: Mapping[str, Any] | None = None
    ) -> "Request":
        """Resolve `config` and keep the `choices` of groups that are not Hydra's own. `settled`: the plain values of
        keys that the caller knows already. Raise ConfigError if several values are missing, or the task is; a single
        missing value raises OmegaConf's own error."""
        try:
            plain = _resolved(config, settled or {})
        except OmegaConfBaseException as error:  # of the first key only
            missing = list(_missing(OmegaConf.to_container(config)))
            if len(missing) < 2:
                raise
            ways = " and ".join(f"{key}=..." for key in missing)
            raise ConfigError(f"{', '.join(missing)}: no value; give them with {ways}") from error
        if "task" not in plain:
            raise ConfigError("task: missing; write task=train")
        for group in ("method", "tracker"):
            if isinstance(plain.get(group), dict):
                plain[group] = complete(plain[group], group)
        _check_seeds(config, plain)
        chosen = {group: option for group, option in choices.items() if option and not group.startswith("hydra/")}
        return cls(plain, chosen)


def _resolved(config: DictConfig, settled: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain values of all keys of `config`, those of `settled` as they are."""
    with suppress(OmegaConfBaseException):  # which the whole config raises in other words than a part of it
        values = {key: settled[key] if key in settled else config[key] for key in config}
        return {key: _plain(value) if OmegaConf.is_config(value) else value for key, value in values.items()}
    return _plain(config)


def _plain(config: Any) -> dict[str, Any]:
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


_NO_TRAINING = ("seed", "runs", "device", "task", "tracker", "ood", "interpolation")
"""Keys whose values change no training, and the seed itself."""


def _check_seeds(config: DictConfig, plain: Mapping[str, Any]) -> None:
    """Raise ConfigError if an optimizer has seeds and other values follow the run's seed, so that the runs of these
    seeds would differ in them too. `plain`: the config's resolved values."""
    for group in ("optimizer", "probe"):
        node = plain.get(group)
        if not isinstance(node, Mapping) or "seeds" not in node or node["seeds"] is None:
            continue
        other = OmegaConf.merge(config, {"seed": 0 if str(plain["seed"]) != "0" else 1})
        values, others = map(dict, (_leaves(plain), _leaves(OmegaConf.to_container(other, resolve=True))))
        differ = [key for key, value in others.items() if value != values.get(key, value) and key != f"{group}.seeds"]
        followers = [key for key in differ if key.partition(".")[0] not in _NO_TRAINING]
        if followers:
            raise ConfigError(
                f"{group}.seeds: {', '.join(followers)} follows the seed, so each seed has other images or settings; "
                f"set {followers[0]}={values[followers[0]]!r}, or give no seeds and write -m seed=0,1,2"
            )


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of values that are no mappings, with the values."""
    for key, value in node.items() if isinstance(node, Mapping) else ():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _missing(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys that need a value and have none."""
    for key, value in node.items() if isinstance(node, dict) else ():
        if value == "???":
            yield f"{prefix}{key}"
        yield from _missing(value, f"{prefix}{key}.")
