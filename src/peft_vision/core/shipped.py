"""This module reads the shipped config files without composing them: the values of options, and the default options."""

from pathlib import Path
from typing import Any

from peft_vision.core.component_names import CONFIG_DIR
from peft_vision.core.records import read_yaml


def keys_of_every_run() -> list[str]:
    """Return the keys and the groups of config.yaml."""
    said = read_yaml(CONFIG_DIR / "config.yaml")
    return [*said, *(name for entry in said["defaults"] if isinstance(entry, dict) for name in entry)]


def unless_chosen(group: str) -> str:
    """Return the option of `group` that a command has if it chooses none."""
    defaults = read_yaml(CONFIG_DIR / "config.yaml")["defaults"]
    return next(entry[group] for entry in defaults if isinstance(entry, dict) and group in entry)


def owners(group: str, key: str) -> list[str]:
    """Return the options of a config group that have this key: first those that need a value for it, then those of the
    shortest names, which are the plainest."""
    values = {path.stem: _values(path) for path in (CONFIG_DIR / group).glob("*.yaml")} if group else {}
    found = {name: settings[key] for name, settings in values.items() if key in settings}
    return sorted(found, key=lambda name: (found[name] != "???", len(name), name))


def _values(path: Path) -> dict[str, Any]:
    """Return the values of an option, with those of the options of the same group that its defaults list names."""
    values = dict(read_yaml(path) or {})
    for start in values.pop("defaults", []):
        if isinstance(start, str) and start != "_self_" and "@" not in start:
            values = {**_values(path.with_name(f"{start}.yaml")), **values}
    return values
