"""The configs of a sweep's points, as Hydra composes them, at a fraction of its time."""

from collections.abc import Sequence
from copy import deepcopy

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, open_dict, read_write

from peft_vision.request import Request


class Composer:
    """Hydra composes the groups that points choose, once for each choice; other values are then set as Hydra sets
    them, on a copy."""

    def __init__(self, loader: ConfigLoaderImpl, sweep: DictConfig) -> None:
        self._loader = loader
        self._sweep = sweep
        self._parser = OverridesParser.create(config_loader=loader)
        self._of_groups: dict[tuple[str, ...], DictConfig] = {}

    def request(self, overrides: Sequence[str]) -> Request:
        """Raises what Hydra raises where they do not compose."""
        parsed = self._parser.parse_overrides(list(overrides))
        are_values = [
            isinstance(override.value(), dict) or not self._loader.repository.group_exists(override.key_or_group)
            for override in parsed
        ]
        groups = tuple(word for word, is_value in zip(overrides, are_values, strict=True) if not is_value)
        if groups not in self._of_groups:
            self._of_groups[groups] = self._loader.load_sweep_config(self._sweep, list(groups))
        config = deepcopy(self._of_groups[groups])
        values = [override for override, is_value in zip(parsed, are_values, strict=True) if is_value]
        self._loader._apply_overrides_to_config(values, config)
        return self._plain(config)

    @staticmethod
    def _plain(config: DictConfig) -> Request:
        choices = dict(config.hydra.runtime.choices)
        hydra = HydraConfig.instance()
        before = hydra.cfg
        hydra.set_config(config)  # for values such as ${hydra:runtime.choices.method}
        try:
            with read_write(config), open_dict(config):
                del config["hydra"]
            return Request.of(config, choices)
        finally:
            hydra.cfg = before
