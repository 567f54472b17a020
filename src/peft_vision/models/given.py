"""This module turns what a caller of the library gives for a component into the values of its YAML file."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from peft_vision.core.composition import complete, option
from peft_vision.core.config import CONFIG_DIR, ConfigError, build, locate
from peft_vision.core.identity import spelled
from peft_vision.core.records import read_yaml

_YAML = (".yaml", ".yml")
_USUAL = {
    "method": "linear",
    "head": "linear",
    "data": "digits",
    "objective": "single_label",
}  # for fields that every component of a group has


def component_values(given: object, kind: type, group: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values, `_target_` among them, of the `kind` that `given` stands for, overridden by `options`.

    `given`: the name of a file in conf/<group>/, the path of a user's YAML file, a component, or its class; a class
    takes the values that every `kind` has from a shipped option. Raise ConfigError if it is none of these or its class
    cannot be found again by its name, which is what a saved adapter holds; raise ValueError for an unknown name.
    """
    if isinstance(given, str) and not given.endswith(_YAML):
        return complete({**option(group, given), **options})
    if isinstance(given, str | Path):
        values = read_yaml(Path(given).expanduser())
        if not isinstance(values, dict) or "_target_" not in values:
            raise ConfigError(f"{group}: {given} holds no _target_, the class to build")
    elif isinstance(given, type):
        shared = {field.name for field in fields(kind)} if is_dataclass(kind) else set()
        common = option(group, _USUAL[group])
        values = {key: common[key] for key in common if key in shared}
        values["_target_"] = f"{given.__module__}.{given.__qualname__}"
    elif isinstance(given, kind):
        values = spelled(given)
    else:
        raise ConfigError(
            f"{group}: got {given!r}, should be a name in {CONFIG_DIR.name}/{group}, the path of a YAML file, a class "
            f"derived from {kind.__name__}, or one built"
        )
    values = complete({**values, **options}) if group == "method" else {**values, **options}
    _check_found(values["_target_"], given, group)
    build(values, kind, group)
    return values


def _check_found(target: Any, given: object, group: str) -> None:
    """Raise ConfigError if the dotted path `target` does not lead to the class of `given`."""
    cls = given if isinstance(given, type) else type(given)
    if isinstance(given, str | Path):
        return
    try:
        found = locate(target, group)
    except ConfigError:
        found = None
    if found is not cls:
        raise ConfigError(
            f"{group}: {cls.__qualname__} cannot be found again as {target}; define it at the top level of a module"
        )
