"""Holds the resolved config that a command asks for, in plain values, and the option chosen of each group."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from peft_vision.composition import complete
from peft_vision.config import ConfigError


@dataclass(frozen=True)
class Request:
    """`config` as a task takes it; `choices` by group."""

    config: dict[str, Any]
    choices: dict[str, str]

    @classmethod
    def of(cls, config: DictConfig, choices: Mapping[str, str | None]) -> "Request":
        """`config` without Hydra's own part, which chose `choices`."""
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
