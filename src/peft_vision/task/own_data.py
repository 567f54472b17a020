"""This module finds the data that a saved run is scored on: its own, from its config.yaml, unless others are chosen.

task=evaluate run=R                  the run's own
task=evaluate run=R data.path=NEW    the same with another value
task=evaluate run=R data=cifar100    others
"""

import copy
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser

from peft_vision.core.config import ConfigError
from peft_vision.core.shipped import unless_chosen
from peft_vision.core.trust import check_targets
from peft_vision.runs.run import Run
from peft_vision.runs.saved import read_config

OTHERS = "these are the run's own data; data=... chooses others"


def data_of(folder: Path, config: Mapping[str, Any], choices: Mapping[str, str]) -> tuple[dict[str, Any], str, bool]:
    """Return the config of the data, the name of their option, and whether they are those of the run in `folder`.

    ConfigError where the command chooses no data and the run's config.yaml does not name any.
    """
    overrides = OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task))
    given = {override.key_or_group: override for override in overrides}
    if "data" in given or choices["data"] != unless_chosen("data"):
        return config["data"], choices["data"], False
    said = read_config(folder).get("data")
    if not isinstance(said, dict) or "_target_" not in said:
        raise ConfigError(f"run: {folder}/config.yaml does not say on which data; write data=digits or another")
    try:
        check_targets(said, "data")
    except ConfigError as error:
        raise ConfigError(f"run: {folder}/config.yaml: {error}") from error
    run_data = copy.deepcopy(said)
    for key, override in given.items():
        if key.startswith("data."):
            _take(run_data, config["data"], key.split(".")[1:], delete=override.is_delete())
    return run_data, _name(folder), True


def _take(node: dict[str, Any], command: Any, path: list[str], *, delete: bool) -> None:
    """Copy the value at `path` from the command's values into `node`, or delete it from `node`."""
    *outer, last = path
    for key in outer:
        node = node.setdefault(key, {})
        command = command.get(key, {}) if isinstance(command, Mapping) else {}
        if not isinstance(node, dict):
            raise ConfigError(f"data.{'.'.join(path)}: the run's own data have a value, and no keys, in data.{key}")
    if delete:
        node.pop(last, None)
    else:
        node[last] = command[last]


def _name(folder: Path) -> str:
    """Return the option that the run's data were chosen by, or "own" if the run has no readable result."""
    result = None
    with suppress(ConfigError):  # the adapter can be scored without a readable result
        result = Run(folder).read_result()
    return "own" if result is None else result["choices"]["data"]
