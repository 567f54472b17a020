"""This module models the store's folder: what it holds now, and what runs will add."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from peft_vision.features.store import Features


@dataclass
class Stock:
    """A model of the store's folder. `held`: names of entries that are there or will be. `writable`: whether entries
    can be written; `limit`: most bytes of one entry. The removal of least recently used entries is not modelled."""

    limit: int
    writable: bool
    held: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, features: Features) -> "Stock":
        """Return the stock of the folder as it is now."""
        shelf = features.shelf
        folder = next(path for path in (shelf.folder.absolute(), *shelf.folder.absolute().parents) if path.exists())
        return cls(shelf.limit_bytes, _takes(folder), {path.stem for path, _ in shelf.held()})

    def has_room(self, num_bytes: int) -> bool:
        """Return whether the folder takes one entry of this size."""
        return self.writable and num_bytes <= self.limit

    def add(self, names: Iterable[str]) -> None:
        self.held.update(names)


def _takes(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK)
