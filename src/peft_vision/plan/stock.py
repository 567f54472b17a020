"""The store's folder as it will be: what is there, and what runs will add."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from peft_vision.features.store import Features


@dataclass
class Stock:
    """`held`: names of entries, files or not yet. `writable`: whether the folder takes any; `limit`: bytes of one that
    it takes. That the least recently used ones go when there are too many is not foreseen."""

    limit: int
    writable: bool
    held: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, features: Features) -> "Stock":
        """As it is now."""
        shelf = features.shelf
        folder = next(path for path in (shelf.folder.absolute(), *shelf.folder.absolute().parents) if path.exists())
        return cls(shelf.limit_bytes, _takes(folder), {path.stem for path, _ in shelf.held()})

    def has_room(self, num_bytes: int) -> bool:
        """For one entry."""
        return self.writable and num_bytes <= self.limit

    def add(self, names: Iterable[str]) -> None:
        self.held.update(names)


def _takes(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK)
