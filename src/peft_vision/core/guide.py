"""This module writes the texts about the command itself: its version, a first page, the groups of options, and a task's
keys and examples, which are those in the task's config file."""

import platform
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from string import Template

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from peft_vision import __version__
from peft_vision.core.composition import all_options, keys_of_every_run, owners
from peft_vision.core.config import CONFIG_DIR, ConfigError, nearest
from peft_vision.core.output import first_line, printable
from peft_vision.core.records import read_yaml

_TASKS = CONFIG_DIR / "task"
_BESIDE = {"Hydra": "hydra-core", "torch": "torch", "timm": "timm"}
_NEEDED = "needed: "
_KEY = re.compile(r" *(?P<key>\w+): (?P<value>[^#]*?)(?: # (?P<remark>.*))?")
_EXAMPLE = re.compile(r"#\s+(peft-vision .*)")

FIRST_PAGE = """\
peft-vision: parameter-efficient fine-tuning of Vision Transformers.

  peft-vision experiment=demo                                             digits, with a small ViT that is shipped
  peft-vision backbone=vit_micro data=image_folder data.path=PICTURES     your pictures, in a folder for each class
  peft-vision method=lora data=cifar100                                   ViT-B/16 and CIFAR-100, downloaded once

peft-vision --help lists methods, data sets and all other options, peft-vision task=predict --help the keys of a task.
peft-vision task=train is a run of nothing but defaults. docs/runs.md says what a run writes."""


def version_line() -> str:
    """Return the version of this tool, and the versions of the libraries it is built on."""
    beside = [f"{name} {version(package)}" for name, package in _BESIDE.items()]
    return f"peft-vision {__version__} ({', '.join([*beside, f'Python {platform.python_version()}'])})"


def groups_help(overrides: list[str], config_dir: str | None) -> str:
    """Return the help of the command, with every group and its options. Raise Hydra's errors for wrong overrides."""
    lines = [f"{group}: {', '.join(names)}" for group, names in all_options(overrides, config_dir).items()]
    template = read_yaml(CONFIG_DIR / "config.yaml")["hydra"]["help"]["template"]
    return Template(template).substitute(APP_CONFIG_GROUPS="".join(f"{line}\n" for line in lines))


def task_help(name: str) -> str | None:
    """Return what a task is for, examples of it, and its keys with their defaults; None if no such task is shipped."""
    path = _TASKS / f"{name}.yaml"
    if not re.fullmatch(r"\w+", name) or not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8").splitlines()
    header = [line for line in lines if line.startswith("#") and not line.startswith("# @package")]
    examples = [found[1] for line in header if (found := _EXAMPLE.fullmatch(line))]
    said = [line.removeprefix("# ") for line in header if not _EXAMPLE.fullmatch(line)]
    keys = dict(sorted(_keys(path), key=lambda pair: not pair[1].startswith(_NEEDED)))  # needed keys first
    widest = max(map(len, keys), default=0)
    rows = [f"  {key:{widest}}  {remark}".rstrip() for key, remark in keys.items()]
    others = ", ".join(sorted(other.stem for other in _TASKS.glob("*.yaml") if other.stem != name))
    parts = [
        "\n".join([f"peft-vision task={name}", *said]),
        "\n".join(f"  {example}" for example in examples),
        "\n".join(["Keys, with their defaults:", "", *rows]) if rows else "",
        f"Whatever a run takes can be set beside these: peft-vision --help. Other tasks: {others}.",
    ]
    return "\n\n".join(part for part in parts if part)


def _keys(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the keys of a task's file, and of the file that it begins from, with their defaults as a command line gives
    them, and the file's remark on each."""
    said = read_yaml(path)
    for start in said.pop("defaults", []):
        if start != "_self_":
            yield from _keys(path.with_name(f"{start.partition('@')[0]}.yaml"))
    lines = path.read_text(encoding="utf-8").splitlines()
    found = {match["key"]: match for line in lines if (match := _KEY.fullmatch(line))}
    inside = said.pop("task", None)
    task_keys = {f"task.{key}": key for key in (said if inside is None else inside)}
    for key, name in {**task_keys, **({} if inside is None else {key: key for key in said})}.items():
        if name in ("_target_", "hydra"):
            continue
        value, remark = found[name]["value"], found[name]["remark"] or ""
        yield (f"{key}=...", f"{_NEEDED}{remark}") if value == "???" else (f"{key}={value}", remark)


HOMELESS = "a path begins with ~, and no home folder is known for it; write the path out, or set HOME"


def reword(error: Exception) -> str:
    """Return one or two lines for an exception of this package, Hydra or OmegaConf."""
    return printable(_reword(error))


def _reword(error: Exception) -> str:
    if isinstance(error, ConfigError):
        return str(error)
    cause = error.__cause__ or error.__context__
    if isinstance(cause, ConfigError):  # raised in a launcher or a sweeper, which Hydra builds
        return str(cause)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        missing = error.missing_cfg_file
        group, _, option = missing.rpartition("/") if missing.startswith("hydra/") else missing.partition("/")
        options = list(error.options or [])
        if not options:
            return f"no config {missing!r}"
        inner = option if (CONFIG_DIR / group / option).is_dir() else option.rpartition("/")[0]
        if inner and (found := sorted((CONFIG_DIR / group / inner).glob("*.yaml"))):
            options = [f"{inner}/{path.stem}" for path in found]
        other = {"data": "ood", "ood": "data"}.get(group, group)
        if option not in options and (CONFIG_DIR / other / f"{option}.yaml").is_file() and other != group:
            meant = "an out-of-distribution set" if other == "ood" else "a data set to train on"
            return f"{group}: {option} is {meant}; write {other}={option}"
        return f"{group}: no option {option!r}; there are {', '.join(options)}{nearest(option, options)}"
    if isinstance(error, OverrideParseException):
        if "=" in str(error.override):
            return (
                f"cannot read {error.override!r}; quote a value with special signs twice: \"data.path='my, pictures'\""
            )
        return f"cannot read {error.override!r}; write group=option or key=value, such as optimizer.lr=0.1"
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return _unknown_key(cause)
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: no value; give one with {error.full_key}=..."
    if isinstance(error, InterpolationResolutionError):
        if match := re.match(r"Interpolation key '([^']+)' not found", first_line(error)):
            return f"{error.full_key}: it takes the value of {match[1]}, which is not there; set {error.full_key}=..."
        return f"{error.full_key}: {first_line(error)}"
    if "does not exist" in str(error) and (match := re.search(r"config group '(\S+)'", str(error))):
        return f"unknown group {match[1]}; peft-vision --help lists the groups"
    if match := re.match(r"Could not delete from config. '([^']+)'", str(error)):
        return f"~{match[1]}: there is no {match[1]}"
    if match := re.match(r"Ambiguous value for argument '([^=]+)=(.*)'", str(error)):
        return f"{match[1]}={match[2]} is a sweep: add -m; for one value that is a list write {match[1]}=[{match[2]}]"
    if cause is not None and str(cause) and str(error):
        return f"{first_line(error)}: {first_line(cause)}"
    return " ".join(line.strip() for line in (str(error) or str(cause)).splitlines())


def is_homeless(error: Exception) -> bool:
    """Return whether a path's `~` cannot be resolved, because HOME is not set and no list of users has this user."""
    return isinstance(error, RuntimeError) and str(error).startswith("Could not determine home directory")


def fault(error: Exception) -> str:
    """Return the same as `reword`, but for an exception of any other package one line: its type and its first line."""
    if isinstance(error, ConfigError | HydraException | OmegaConfBaseException):
        return reword(error)
    if is_homeless(error):
        return HOMELESS
    return printable(f"{type(error).__name__}: {first_line(error)}") if str(error).strip() else type(error).__name__


def _unknown_key(error: ConfigAttributeError | ConfigKeyError) -> str:
    full_key = str(error.full_key)
    parent = error.parent_node
    siblings = [str(key) for key in parent] if isinstance(parent, DictConfig) else []
    siblings = [key for key in siblings if key not in ("hydra", "_target_")]
    group, _, key = full_key.rpartition(".")
    if not siblings:
        return f"unknown key {full_key}"
    elsewhere = next((name for name in _group_keys(parent._get_root()) if name.endswith(f".{key}")), None)
    hint = nearest(key, siblings) or (f"; did you mean {elsewhere}?" if elsewhere else "")
    if found := owners(group, key):
        hint = f"\n{key} is an option of {', '.join(found)}: write {group}={found[0]}"
    if not group and (task_keys := [name for name in siblings if name not in keys_of_every_run()]):
        return f"unknown key {key}; this task takes {', '.join(task_keys)}, and whatever a run takes{hint}"
    return f"unknown key {full_key}; {group or 'a run'} takes {', '.join(siblings)}{hint}"


def _group_keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key except Hydra's own."""
    for key in node:
        if key == "hydra":
            continue
        yield f"{prefix}{key}"
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none():
            yield from _group_keys(child, f"{prefix}{key}.")
