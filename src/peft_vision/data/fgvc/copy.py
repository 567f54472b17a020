"""This module holds a local copy of one of the five data sets, and says what to do if parts of it are missing."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from peft_vision.core.config import ConfigError
from peft_vision.data.fgvc.collection import Collection
from peft_vision.data.folders import files_below

_NAMED = 3  # missing files named in a message


@dataclass(frozen=True)
class Copy:
    """A copy of `collection`, in `folder`."""

    folder: Path
    collection: Collection

    def require(self, *names: str) -> None:
        """Raise ConfigError unless these files and folders exist in the folder."""
        root = self.folder.parent
        if root.is_file():
            raise ConfigError(f"data.root: {root} is a file; unpack it, and give the folder that holds data sets")
        if not self.folder.is_dir():
            raise self.fault(f"no folder {self.folder}", wanted=names[0])
        if missing := [name for name in names if not (self.folder / name).exists()]:
            more = ", ..." if missing[_NAMED:] else ""
            raise self.fault(f"{self.folder} lacks {', '.join(missing[:_NAMED])}{more}", wanted=missing[0])

    def fault(self, found: str, *, wanted: str) -> ConfigError:
        """Return a ConfigError that reports `found` and says how to get what is `wanted` into the folder."""
        places = (self.folder.parent, self.folder)
        packed = [str(place / name) for place in places for name in self.collection.packed if (place / name).is_file()]
        remedy = (
            f"unpack {' and '.join(packed)} so that there is {self.folder / wanted}"
            if packed
            else f"fetch {self.collection.title} from {self.collection.site}"
        )
        return ConfigError(f"data.root: {found}\n{remedy}")

    @cached_property
    def files(self) -> frozenset[str]:
        """Return all files by their paths below the folder. Folders are listed, which is faster than checking 48,000
        files one by one."""
        return frozenset(files_below(self.folder, self.folder, ("",), key="data.root"))
