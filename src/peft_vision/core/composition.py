"""This module composes config groups on their own with Hydra, and spells out methods that are made of other methods."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import OmegaConf

from peft_vision.core.component_names import CONFIG_DIR
from peft_vision.core.config import ConfigError, nearest


def option(group: str, name: str) -> dict[str, Any]:
    """Return the values of `<group>/<name>.yaml`, which may be in the user's config folders if a command is running.

    Raise ValueError if there is no such option.
    """
    with _hydra():
        try:
            composed = compose(config_name=f"{group}/{name}")
        except (MissingConfigException, ConfigCompositionException) as error:
            known = options(group)
            raise ValueError(f"unknown {group} {name!r}; there are {', '.join(known)}{nearest(name, known)}") from error
    return OmegaConf.to_container(composed[group], resolve=True)


def options(group: str) -> list[str]:
    """Return the names of a group's options, sorted."""
    with _hydra():
        return GlobalHydra.instance().config_loader().get_group_options(group)


def complete(method: Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's values with its `parts`, if it has any, spelled out.

    Parts are names of methods, or names with values that override those of `method/<name>.yaml`. Raise ConfigError for
    an unknown name, or parts of another form.
    """
    if "parts" not in method or method["parts"] is None:
        return dict(method)
    spelled: dict[str, Any] = {}
    for name, values in _named(method["parts"]).items():
        if not isinstance(values, Mapping | None):
            raise ConfigError(f"method.parts.{name}: got {values!r}, should be values of it, such as {{rank:4}}")
        spelled[name] = complete(values if values and "_target_" in values else {**_own(name), **(values or {})})
    return {**method, "parts": spelled}


def _own(name: Any) -> dict[str, Any]:
    try:
        return option("method", str(name))
    except ValueError as error:
        raise ConfigError(f"method.parts: {error}") from error


def _named(parts: Any) -> Mapping[str, Any]:
    """Return the given values of each part by its name, None for a part without any."""
    if isinstance(parts, Mapping):
        return parts
    names = parts if isinstance(parts, list | tuple) else [parts]
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ConfigError(
            f"method.parts: got {parts!r}, should name each method once: [lora,vqt] or {{lora:{{rank:4}},vqt:{{}}}}"
        )
    return dict.fromkeys(names)


def _hydra():
    """Return a context in which Hydra is that of the running command, or else one that knows the shipped configs."""
    if GlobalHydra.instance().is_initialized():
        return nullcontext()
    return initialize_config_dir(config_dir=str(CONFIG_DIR), version_base="1.3")
