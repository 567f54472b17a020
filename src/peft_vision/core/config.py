"""This module turns YAML into checked objects: it defines and builds components.

A component is a frozen dataclass without defaults whose numbers live in `conf/`. `build` imports the class that
`_target_` names and turns every fault into one line that names the key, the given value and what would be right.
"""

import difflib
import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from dataclasses import fields
from functools import cache, partial
from typing import Any, get_type_hints

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from peft_vision.core.config_files import CONFIG_DIR

PACKAGE = __name__.partition(".")[0]
_SAVED_NAMES = {
    "ShiftedFolder": "ImageFolder",
    "ShiftedBreeds": "Breeds",
    "ShiftedDomainNet": "DomainNet",
    "ShiftedFMoW": "FMoW",
}
"""The short names of classes that were named otherwise when files first named them; the config group tells them from
the data sets of these names."""
_TARGET = re.compile(rf"\b_target_: *({PACKAGE}\.[\w.]+)")


def shortened(node: Any) -> Any:
    """Return a config, at any depth, with the short names of this package's components instead of their import
    paths."""
    if isinstance(node, Mapping):
        return {key: _short(value) if key == "_target_" else shortened(value) for key, value in node.items()}
    return [shortened(value) for value in node] if isinstance(node, list | tuple) else node


def saved_name(name: str) -> str:
    """Return the short name of the class of this package with this name."""
    return _SAVED_NAMES.get(name, name)


def import_path(name: str, where: str) -> str | None:
    """Return the import path of a component with this short name, or None if there is none. `where`: the key of the
    component, such as data or config.ood.stl10, whose config group tells two classes of one name apart."""
    paths = _paths().get(saved_name(name), {})
    of_group = [paths[group] for group in where.split(".") if group in paths]
    different = set(of_group or paths.values())
    return different.pop() if len(different) == 1 else None


def moved(path: str, where: str) -> str | None:
    """Return where a component of this package is today whose import path was once `path`; None if there is none."""
    today = import_path(path.rpartition(".")[2], where) if path.startswith(f"{PACKAGE}.") else None
    return None if today == path else today


def _short(target: Any) -> Any:
    name = saved_name(target.rpartition(".")[2]) if isinstance(target, str) else ""
    return name if target in _paths().get(name, {}).values() else target


@cache
def _paths() -> Mapping[str, Mapping[str, str]]:
    """Return the import path of each shipped component by short name and config group."""
    found: dict[str, dict[str, str]] = {}
    for file in sorted(CONFIG_DIR.glob("*/**/*.yaml")):
        for path in _TARGET.findall(file.read_text(encoding="utf-8")):
            found.setdefault(saved_name(path.rpartition(".")[2]), {})[file.relative_to(CONFIG_DIR).parts[0]] = path
    return found


component = partial(
    dataclass,
    frozen=True,
    kw_only=True,
    # results and reports are JSON, which has no infinite values and no NaN
    config=ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False),
)

NOT_HASHED = "cannot change a result, so it is no part of a run's identity"
"""The mark of a field that cannot change a result: `workers: Annotated[int, NOT_HASHED]`."""

FILE = "names a file or a folder"
"""The mark of a field that holds a path. The identity holds the absolute path, so it is the same in every folder."""

FUNCTION = "may name a function of the user's own by its dotted path"
"""The mark of a field whose text, if it has a dot, names a function: the identity holds a digest of its source."""


@plain_dataclass(frozen=True)
class HashDefault:
    """A mark for a field that was added to a component later. With this value the component behaves as before it had
    the field, and the identity of a run is the same; a config written before that is built with this value. Used as
    `stage: Annotated[str, HashDefault("all")]`."""

    value: Any


@plain_dataclass(frozen=True)
class HashDefaultOfEach:
    """A mark for a mapping that was added to a component later. An entry of this value is as if it were not there, and
    without entries the component behaves as before it had the field; a config written before that is built without
    entries. Used as `lr_factors: Annotated[dict[str, float], HashDefaultOfEach(1.0)]`."""

    value: Any


@plain_dataclass(frozen=True)
class OnlyWith:
    """A mark for a field that changes a result only where the field `name` of its component has this `value`; elsewhere
    it is not part of a run's identity. Used as `momentum: Annotated[float, OnlyWith("algorithm", "sgd")]`."""

    name: str
    value: Any

    def acts_in(self, component: Any) -> bool:
        """Return whether the marked field changes what this component does."""
        return getattr(component, self.name) == self.value


@plain_dataclass(frozen=True)
class IdleWith(OnlyWith):
    """A mark for a field that changes a result only where the field `name` of its component is not `value`."""

    def acts_in(self, component: Any) -> bool:
        """Return whether the marked field changes what this component does."""
        return not super().acts_in(component)


INCIDENTAL, Neutral = NOT_HASHED, HashDefault  # the names up to version 0.1.0, for components of users


class ConfigError(Exception):
    """The error for a request that cannot be met; the message is all the user sees, so it names key, value and
    remedy."""

    exit_code = 1


class Busy(ConfigError):
    """The error for work that another process is doing."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: a later attempt may succeed


class Pruned(ConfigError):
    """The error for a run that a search gave up. Its state is saved: the same command by itself finishes it."""

    exit_code = 76


def nearest(word: str, options: Mapping[str, Any] | list[str]) -> str:
    """Return a hint such as "; did you mean num_prompts?", or an empty string if no option is close."""
    match = difflib.get_close_matches(word, [str(option) for option in options], n=1, cutoff=0.6)
    return f"; did you mean {match[0]}?" if match else ""


def locate(target: str, where: str) -> type:
    """Return the class that an import path names, or that has this short name, of this package. Raise ConfigError, with
    the key `where`, if there is none. A class that has moved within this package is found where it is today."""
    if not isinstance(target, str):
        raise ConfigError(f"{where}._target_: got {target!r}, should be a dotted path to a class")
    path = target if "." in target else import_path(target, where) or target
    try:
        return _imported(path, where)
    except ConfigError:
        today = moved(path, where)
        if today is None:
            raise
        return _imported(today, where)


def _imported(path: str, where: str) -> type:
    module_name, _, class_name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, what it imports is not
        raise ConfigError(f"{where}._target_: no module {error.name!r} for {path!r}") from error
    except (ValueError, TypeError) as error:  # an empty name, or one that begins with a dot
        raise ConfigError(f"{where}._target_: {path!r} is no dotted path to a class") from error
    found = vars(module).get(class_name)
    if not isinstance(found, type):
        raise ConfigError(f"{where}._target_: {module_name} has no class {class_name!r}")
    return found


def build(node: Mapping[str, Any], kind: type, where: str) -> Any:
    """Return the component that `node` (plain, resolved values with a `_target_`) describes; it must be a `kind`.

    Raise ConfigError with one line for each fault. `where` is the config group, for the message.
    """
    values = dict(node)
    if "_target_" not in values:
        raise ConfigError(f"{where}: no _target_, the class to build, among {', '.join(values) or 'no keys'}")
    cls = locate(values.pop("_target_"), where)
    if not issubclass(cls, kind):
        raise ConfigError(f"{where}: {cls.__name__} is not a {kind.__name__}")
    if inspect.isabstract(cls):
        lacks = ", ".join(sorted(cls.__abstractmethods__))
        raise ConfigError(
            f"{where}._target_: {cls.__name__} is abstract; name a class that derives from it and has {lacks}"
        )
    try:
        return cls(**{**_neutral(cls), **values})
    except ValidationError as error:
        faults = [_describe(fault, cls, where) for fault in error.errors()]
        raise ConfigError("\n".join(faults)) from error


def build_all(nodes: Mapping[str, Any], kinds: Mapping[str, type]) -> dict[str, Any]:
    """Return one component for each group in `kinds`; raise a ConfigError that lists the faults of all groups."""
    built: dict[str, Any] = {}
    faults: list[str] = []
    for group, kind in kinds.items():
        try:
            built[group] = build(nodes[group], kind, group)
        except ConfigError as error:
            faults.append(str(error))
    if faults:
        raise ConfigError("\n".join(faults))
    return built


def build_parts(parts: Any, kind: type, where: str, *, example: str) -> dict[str, Any]:
    """Return the components of `kind` that the configs in `parts` describe, by name; one that is built already stays.
    Raise ConfigError unless there is a part. `where`: the key of the config; `example`: parts that it may name."""
    if not isinstance(parts, Mapping) or not parts:
        group = where.partition(".")[0]
        raise ConfigError(f"{where}: got {parts!r}, should name {group}s, such as {example}")
    return {
        name: node if isinstance(node, kind) else build(node, kind, f"{where}.{name}") for name, node in parts.items()
    }


def hashed_fields(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a component's `values`, at any depth, without those marked NOT_HASHED and those equal to their
    HashDefault."""
    lasting = {key: lasting_value(value, marks(cls).get(key, ())) for key, value in values.items()}
    return {key: _lasting_within(value) for key, value in lasting.items() if value is not NOT_HASHED}


def lasting_value(value: Any, field_marks: tuple[Any, ...]) -> Any:
    """Return what of a field's value is part of a run's identity; NOT_HASHED where nothing is."""
    if any(mark in (NOT_HASHED, HashDefault(value)) for mark in field_marks):
        return NOT_HASHED
    for mark in field_marks:
        if isinstance(mark, HashDefaultOfEach) and isinstance(value, Mapping):
            return {key: inner for key, inner in value.items() if inner != mark.value} or NOT_HASHED
    return value


@cache  # a report asks for the same few classes thousands of times
def marks(cls: type) -> Mapping[str, tuple[Any, ...]]:
    """Return the annotations of each field's type, by field name."""
    hints = get_type_hints(cls, include_extras=True)
    return {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}


def _neutral(cls: type) -> dict[str, Any]:
    """Return the HashDefault values of a class's fields, by field name, and no entries for HashDefaultOfEach."""
    found = [(name, mark) for name, of_field in marks(cls).items() for mark in of_field]
    neutral = {name: mark.value for name, mark in found if isinstance(mark, HashDefault)}
    return {**neutral, **{name: {} for name, mark in found if isinstance(mark, HashDefaultOfEach)}}


def _lasting_within(value: Any) -> Any:
    """Apply `hashed_fields` to the components that a value contains."""
    if not isinstance(value, Mapping):
        return value
    if "_target_" not in value:
        return {key: _lasting_within(inner) for key, inner in value.items()}
    return {"_target_": value["_target_"], **hashed_fields(locate(value["_target_"], "_target_"), _rest(value))}


def _rest(node: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key != "_target_"}


def _describe(fault: Mapping[str, Any], cls: type, where: str) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    names = [field.name for field in fields(cls)]
    if fault["type"] == "unexpected_keyword_argument":
        return f"{where}: unknown {key}; {cls.__name__} takes {', '.join(names)}{nearest(key, names)}"
    if fault["type"] in ("missing", "missing_argument"):
        return f"{where}.{key}: missing; {cls.__name__} takes {', '.join(names)}"
    problem = re.sub(r"^(Input|Value error,) ", "", fault["msg"]).replace("a valid tuple", "a list")
    problem = re.sub(r"^\w+ should have (at least|at most) (\d+) item.*", r"should have \1 \2", problem)
    got = "null" if fault["input"] is None else repr(fault["input"])
    return f"{where}.{key}: got {got}, {problem}" if key else f"{where}: {problem}"
