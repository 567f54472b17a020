"""A copy of one of the five data sets on this machine, and what to do where something of it is missing."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from peft_vision.config import ConfigError
from peft_vision.data.fgvc.collection import Collection

_NAMED = 3  # missing files that a message names


@dataclass(frozen=True)
class Copy:
    """Of `collection`, in `folder`."""

    folder: Path
    collection: Collection

    def require(self, *names: str) -> None:
        """ConfigError unless these files and folders lie in the folder."""
        root = self.folder.parent
        if root.is_file():
            raise ConfigError(f"data.root: {root} is a file; unpack it, and give the folder that holds data sets")
        if not self.folder.is_dir():
            raise self.fault(f"no folder {self.folder}")
        if missing := [name for name in names if not (self.folder / name).exists()]:
            more = ", ..." if missing[_NAMED:] else ""
            raise self.fault(f"{self.folder} lacks {', '.join(missing[:_NAMED])}{more}")

    def fault(self, found: str) -> ConfigError:
        """Of `found`, with the way out."""
        places = (self.folder.parent, self.folder)
        packed = [str(place / name) for place in places for name in self.collection.packed if (place / name).is_file()]
        title, site = self.collection.title, self.collection.site
        unpack = f"unpack {' and '.join(packed)}: what is inside belongs in {self.folder}"
        return ConfigError(f"data.root: {found}\n{unpack if packed else f'{title} is at {site}'}")

    @cached_property
    def files(self) -> frozenset[str]:
        """All there are, by their paths below the folder. Folders are listed, which is faster than to ask for each of
        48,000 files."""
        return frozenset(
            os.path.relpath(os.path.join(where, name), self.folder).replace(os.sep, "/")
            for where, _, names in os.walk(self.folder, followlinks=True)
            for name in names
        )
