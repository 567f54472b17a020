"""This module composes the configs of a sweep's points as Hydra does, in a fraction of the time."""

from collections.abc import Sequence
from copy import copy, deepcopy
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from peft_vision.core.request import Request


class Composer:
    """A composer that lets Hydra compose each combination of config groups once, from files that are read once, and
    sets the remaining values on a copy, as Hydra does."""

    def __init__(self, loader: ConfigLoaderImpl, sweep: DictConfig) -> None:
        self._loader = copy(loader)
        self._loader.repository = _ReadOnce(loader.repository)
        self._sweep = sweep
        self._parser = OverridesParser.create(config_loader=loader)
        self._overrides: dict[str, Override] = {}
        self._of_groups: dict[tuple[str, ...], tuple[DictConfig, DictConfig]] = {}

    def request(self, overrides: Sequence[str]) -> Request:
        """Compose the request of one point; raise what Hydra raises if the overrides do not compose."""
        parsed = [self._parsed(word) for word in overrides]
        are_values = [
            isinstance(override.value(), dict) or not self._loader.repository.group_exists(override.key_or_group)
            for override in parsed
        ]
        groups = tuple(word for word, is_value in zip(overrides, are_values, strict=True) if not is_value)
        if groups not in self._of_groups:
            self._of_groups[groups] = self._composed(groups)
        hydra, config = self._of_groups[groups]
        values = [override for override, is_value in zip(parsed, are_values, strict=True) if is_value]
        if values:
            config = deepcopy(config)
            self._loader._apply_overrides_to_config(values, config)
        state = HydraConfig.instance()
        before, state.cfg = state.cfg, hydra  # for values such as ${hydra:runtime.choices.method}
        try:
            return Request.of(config, dict(hydra.hydra.runtime.choices))
        finally:
            state.cfg = before

    def _parsed(self, word: str) -> Override:
        """Parse each word once, since the points of a sweep have most of theirs in common."""
        if word not in self._overrides:
            (self._overrides[word],) = self._parser.parse_overrides([word])
        return self._overrides[word]

    def _composed(self, groups: Sequence[str]) -> tuple[DictConfig, DictConfig]:
        """Return Hydra's own node of the composed config, and the rest of the config."""
        config = self._loader.load_sweep_config(self._sweep, list(groups))
        hydra = OmegaConf.masked_copy(config, "hydra")
        with read_write(config), open_dict(config):
            del config["hydra"]
        return hydra, config


class _ReadOnce(CachingConfigRepository):
    """A repository that reads each file once for all configs. Hydra copies its repository for every config; this one is
    shared instead, and returns copies of what it read, because Hydra composes a config out of these very nodes."""

    def load_config(self, config_path: str) -> ConfigResult | None:
        return deepcopy(super().load_config(config_path))

    def __deepcopy__(self, memo: dict[int, Any]) -> "_ReadOnce":
        return self
