"""This module checks the options of launchers and sweepers, which Hydra builds itself without checking them."""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from peft_vision.core.config import build


def checked(kind: type, options: Mapping[str, Any], where: str) -> Any:
    """Build the component `kind` from options as Hydra passes them; ConfigError lists all faults."""
    plain = {
        key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value for key, value in options.items()
    }
    return build({"_target_": f"{kind.__module__}.{kind.__qualname__}", **plain}, kind, where)
