"""This module holds the resolved config that a command asks for, in plain values, and the chosen group options."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from peft_vision.core.composition import complete
from peft_vision.core.config import ConfigError


@dataclass(frozen=True)
class Request:
    """The resolved config and the chosen group options. `config` is in plain values; `choices` are by group."""

    config: dict[str, Any]
    choices: dict[str, str]

    @classmethod
    def of(cls, config: DictConfig, choices: Mapping[str, str | None]) -> "Request":
        """Resolve `config` and keep the `choices` of groups that are not Hydra's own. Raise ConfigError if several
        values are missing, or the task is; a single missing value raises OmegaConf's own error."""
        try:
            plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        except OmegaConfBaseException as error:  # of the first key only
            missing = list(_missing(OmegaConf.to_container(config)))
            if len(missing) < 2:
                raise
            ways = " and ".join(f"{key}=..." for key in missing)
            raise ConfigError(f"{', '.join(missing)}: no value; give them with {ways}") from error
        if "task" not in plain:
            raise ConfigError("task: missing; write task=train")
        if isinstance(plain.get("method"), dict):
            plain["method"] = complete(plain["method"])
        chosen = {group: option for group, option in choices.items() if option and not group.startswith("hydra/")}
        return cls(plain, chosen)


def _missing(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys that need a value and have none."""
    for key, value in node.items() if isinstance(node, dict) else ():
        if value == "???":
            yield f"{prefix}{key}"
        yield from _missing(value, f"{prefix}{key}.")
