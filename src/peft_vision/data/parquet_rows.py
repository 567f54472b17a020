"""This module reads encoded pictures from a column of parquet files, one row group at a time."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from peft_vision.core.config import ConfigError
from peft_vision.core.output import one_line, shown
from peft_vision.core.records import open_regular
from peft_vision.data.decode import rgb
from peft_vision.data.opening import open_bytes
from peft_vision.data.pictures import Pictures

_MAGIC = b"PAR1"
_FEW = 128  # bytes
_HELD_MIB = 256  # for row groups kept in memory; Hugging Face writes 100 encoded pictures into one


def pyarrow() -> ModuleType:
    """Return the module `pyarrow.parquet`. ConfigError if it is not installed."""
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ConfigError("data: parquet files are read by pyarrow; pip install 'peft-vision[data]'") from error
    return pyarrow.parquet


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[Any]:
    """Yield a `pyarrow.parquet.ParquetFile`. OSError if `path` is not a regular file, not a parquet file, or broken."""
    parquet = pyarrow()
    import pyarrow as arrow

    with open_regular(path) as file:
        if file.read(len(_MAGIC)) != _MAGIC:  # pyarrow looks at the end only
            raise OSError(f"it does not begin with {_MAGIC.decode()}")
    try:
        with parquet.ParquetFile(path, memory_map=True, **options) as file:
            yield file
    except (arrow.ArrowException, ValueError, RuntimeError) as error:
        raise OSError(one_line(error)) from error


@dataclass(frozen=True)
class File:
    """A parquet file below `root`, with the number of rows of each row group."""

    root: Path
    path: str
    size: int
    rows: tuple[int, ...]


class ParquetRows(Pictures):
    """The pictures in `column` of `files`, in order. Values are bytes or, as Hugging Face has them, structs {bytes,
    path}."""

    def __init__(self, files: Sequence[File], column: str) -> None:
        self.files = list(files)
        self.column = column
        counts = [(place, group, rows) for place, file in enumerate(files) for group, rows in enumerate(file.rows)]
        self._groups = [(place, group) for place, group, _ in counts]
        self._starts = np.cumsum([0, *(rows for _, _, rows in counts)])
        self._held: OrderedDict[int, Any] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return ParquetRows, (self.files, self.column)  # a lock cannot be sent to a loader process

    def __len__(self) -> int:
        return int(self._starts[-1])

    def name(self, index: int) -> str:
        file, row = self._row(index)
        return f"{shown(file.root / file.path)} row {row}"

    def read(self, index: int) -> Image.Image:
        with open_bytes(self._encoded(index)) as image:
            return rgb(image)

    def sides(self, index: int) -> tuple[int, int]:
        with open_bytes(self._encoded(index)) as image:
            return image.size

    def verify(self, index: int) -> None:
        with open_bytes(self._encoded(index)) as image:
            image.draft("RGB", (1, 1))  # as for files
            rgb(image)

    def identify(self, indices: Tensor) -> Iterable[bytes]:
        """Identify pictures by file path, file size and row, because their content would have to be read."""
        for index in indices.tolist():
            file, row = self._row(index)
            yield f"{file.path}\0{file.size}\0{row}\0".encode()

    def contents(self, indices: Tensor) -> Iterable[bytes]:
        for index in indices.tolist():
            yield self._content(index) or b""

    def length(self, index: int) -> int:
        """Return the encoded bytes of a picture, from a column read just now or read again; nothing is decoded."""
        return len(self._content(index) or b"")

    def middle(self, index: int) -> bytes:
        content = self._content(index) or b""
        return content[max(0, len(content) - _FEW) // 2 :][:_FEW]

    def _row(self, index: int) -> tuple[File, int]:
        """Return the file of a picture, and its row in the file."""
        place, group = self._groups[self._number(index)]
        before = sum(self.files[place].rows[:group])
        return self.files[place], before + index - int(self._starts[self._number(index)])

    def _number(self, index: int) -> int:
        """Return the number, counted over all files, of the row group that holds row `index`."""
        return int(np.searchsorted(self._starts, index, side="right")) - 1

    def _encoded(self, index: int) -> bytes:
        content = self._content(index)
        if content is None:  # the row names a picture that the file does not hold
            raise ValueError(f"no bytes in column {self.column}")
        return content

    def _content(self, index: int) -> bytes | None:
        number = self._number(index)
        value = self._group(number)[index - int(self._starts[number])].as_py()
        return value["bytes"] if isinstance(value, dict) else value

    def _group(self, number: int) -> Any:
        """Return the column of a row group, from the ones kept in memory or read now."""
        with self._lock:  # several threads decode, and the parquet reader is not thread-safe
            if number not in self._held:
                place, group = self._groups[number]
                file = self.files[place]
                # without pyarrow's threads: a loader process that is forked while they work would wait forever
                with opened(file.root / file.path, pre_buffer=False) as parquet:
                    table = parquet.read_row_group(group, columns=[self.column], use_threads=False)
                self._held[number] = table.column(self.column)
            self._held.move_to_end(number)
            while len(self._held) > 1 and sum(held.nbytes for held in self._held.values()) > _HELD_MIB * 2**20:
                self._held.popitem(last=False)
            return self._held[number]
