"""This module has the sets of the user's own data that are read as a run's own are: a table, or pictures with masks."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any

from pydantic import BeforeValidator

from peft_vision.core.config import FILE, ConfigError, build, component
from peft_vision.core.identity import spelled
from peft_vision.data.base import Data
from peft_vision.ood.base import OOD, Shift

_ONE_TABLE = {"train": None, "val": None, "test": None, "split_column": None}
"""Values of a table that is not divided, of which every row is scored."""


def _built(node: Any) -> Data:
    return node if isinstance(node, Data) else build(node, Data, "data")


@component
class Elsewhere(OOD):
    """A set of data of the kind that a run is trained on. `data`: the run's own data; `path`: what stands in the place
    of their path, or that of each shift by name; `options`: of their other values those that are different here. Of
    data that are divided the test split is scored, else every picture, and of a table every row."""

    path: Annotated[str | dict[str, str], FILE]
    options: dict[str, Any]
    data: Annotated[Data, BeforeValidator(_built)]

    def check(self) -> None:
        self.open()

    def open(self) -> Mapping[str, Shift]:
        paths = {"": self.path} if isinstance(self.path, str) else self.path
        return {name: self._shift(path, f"path.{name}" if name else "path") for name, path in paths.items()}

    def _shift(self, path: str, key: str) -> Shift:
        """Return the pictures that are scored. ConfigError, which begins with `key`, where they cannot be read."""
        known = {field.name for field in fields(self.data)}
        if "path" not in known:
            raise ConfigError(f"{key}: the run's data are not read from a path, so that none stands in its place")
        one_table = _ONE_TABLE if "split_column" in known else {}  # other data call their splits by these keys
        try:
            sets = build({**spelled(self.data), **one_table, **self.options, "path": path}, Data, "data").open()
        except OSError as error:
            raise ConfigError(f"{key}: {error.filename or path}: {error.strerror or error}") from error
        except ConfigError as error:
            raise ConfigError(f"{key}: {str(error).removeprefix('data.path: ')}") from error
        every = sets.train if sets.val is None else sets.train.joined(sets.val)
        return Shift(every if sets.test is None else sets.test, sets.classes)
