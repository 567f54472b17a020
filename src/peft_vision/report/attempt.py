"""This module reads a run without a result from the name of its folder and its config.yaml."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft_vision.core.config import ConfigError
from peft_vision.core.output import one_line
from peft_vision.core.records import read_yaml
from peft_vision.report.finished import RunRecord, settled


@dataclass(frozen=True)
class Attempt:
    """A run without a result. `setting`: as in a finished run; empty where config.yaml cannot be read."""

    method: str
    backbone: str
    data: str
    seed: int
    setting: Mapping[str, Any]


def attempts(folders: Mapping[str, Path], finished: Iterable[RunRecord]) -> dict[str, Attempt]:
    """Return the attempts by the same keys, without folders whose name is not a run's or could be that of several runs.

    A hyphen in the name of an option is recognised only where a finished run has the same options, a slash only where
    one has that option."""
    options = {(run.method, run.backbone, run.data) for run in finished}
    known = {_plain("-".join(names)): names for names in options}
    single = {_plain(name): name for names in options for name in names}
    found = {key: _attempt(folder, known, single) for key, folder in folders.items()}
    return {key: attempt for key, attempt in found.items() if attempt is not None}


def _plain(name: str) -> str:
    return name.replace("/", "_")


def _attempt(folder: Path, known: Mapping[str, tuple[str, ...]], single: Mapping[str, str]) -> Attempt | None:
    named = re.fullmatch(r"(?P<options>.+)-s(?P<seed>\d+)-[^-]+", one_line(folder.name))
    if named is None:
        return None
    options = known.get(named["options"], tuple(single.get(name, name) for name in named["options"].split("-")))
    if len(options) != 3:  # method, backbone, data
        return None
    return Attempt(*options, seed=int(named["seed"]), setting=_setting(folder / "config.yaml"))


def _setting(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(json.dumps(read_yaml(path)))  # as in a finished run, all keys become strings
        return settled(values) if isinstance(values, dict) else {}
    except ConfigError:
        return {}  # the report lists the run as left out in any case
