"""This module finds the methods to measure: those of the config group `method`, shipped or a user's own."""

from collections.abc import Mapping
from typing import Any

from peft_vision.core.composition import complete, option, options
from peft_vision.core.config import ConfigError, nearest

FULL = "full"


def method_configs(names: tuple[str, ...] | None, config: Mapping[str, Any], chosen: str) -> dict[str, dict[str, Any]]:
    """Return the config of each method that `names` lists, or of all methods without a list, and of full fine-tuning.

    The method `chosen` on the command line is taken with the values it has there, in `config`. ConfigError for a name
    that does not exist.
    """
    known = options("method")
    for name in names or ():
        if name not in known:
            raise ConfigError(f"task.methods: no method {name!r}; there are {', '.join(known)}{nearest(name, known)}")
    wanted = dict.fromkeys([*(names or known), FULL])
    return {name: complete(config["method"] if name == chosen else option("method", name)) for name in wanted}
