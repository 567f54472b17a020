"""Ten ways in which a file of a data set is found broken, and the one answer that any reader may give: a line.

    DAMAGES[name](path)
    refused(lambda: make(...).load(...), path)

What a damage does follows the file's format where its name tells one, so that it gets past the first look.
"""

import io
import json
import os
import pickle
import signal
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from peft_vision.core.config import ConfigError

SECONDS = 10  # for one read of a miniature
_NOTHING = object()


def truncated(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: max(1, len(content) // 2)])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_type(path: Path) -> None:
    """Values of another type in the same format; a picture of floating-point pixels."""
    match path.suffix.lower():
        case ".npy":
            np.save(path, np.load(path).astype(np.complex64))
        case ".npz":
            np.savez(path, **{name: value.astype(np.complex64) for name, value in _npz(path).items()})
        case ".mat" if (values := _mat(path)) is not None:
            _save_mat(path, dict.fromkeys(values, "text"))
        case ".json":
            path.write_text(json.dumps({"a number": 3, "nothing": None, "a list": [[], {}]}))
        case ".txt" | ".csv" | ".lst":
            path.write_bytes(bytes(range(256)) * 4)
        case ".png" | ".jpg" | ".jpeg" | ".ppm" | ".bmp" | ".webp" | ".tif" | ".tiff" | ".gif":
            Image.fromarray(np.full((4, 4), np.nan, dtype=np.float32)).save(path, format="TIFF")
        case ".parquet":
            _save_parquet(path, {"image": [1.5, 2.5], "label": [[1], [2]]})
        case _:
            path.write_text("a text where something else should be\n" * 20)


def other_shape(path: Path) -> None:
    """Of a text, every line twice as long; of a picture, a single pixel, which is none where any size will do."""
    match path.suffix.lower():
        case ".npy":
            np.save(path, np.load(path).reshape(-1)[:-1])
        case ".npz":
            np.savez(path, **{name: value.reshape(-1)[:-1] for name, value in _npz(path).items()})
        case ".mat" if (values := _mat(path)) is not None:
            _save_mat(path, {name: np.zeros((2, 3, 5, 7)) for name in values})
        case ".json":
            path.write_text(json.dumps([[json.loads(path.read_bytes())]]))
        case ".txt" | ".csv" | ".lst":
            path.write_bytes(b"\n".join(line + b" " + line for line in path.read_bytes().splitlines()))
        case ".png" | ".jpg" | ".jpeg" | ".ppm" | ".bmp" | ".webp" | ".tif" | ".tiff" | ".gif":
            Image.new("L", (1, 1)).save(path)
        case ".parquet":
            _save_parquet(path, {"other": [1, 2, 3]})
        case _:
            path.write_bytes(path.read_bytes()[1:])


def pickled(path: Path) -> None:
    """An object that makes a folder beside the file when it is unpickled; in an array where the format is one."""
    bomb = _Bomb(f"{path}{_EXECUTED}")
    with path.open("wb") as file:
        match path.suffix.lower():
            case ".npy":
                np.save(file, np.array([bomb], dtype=object), allow_pickle=True)
            case ".npz":
                names = [name.removesuffix(".npy") for name in _npz(path)] if path.stat().st_size else ["imgs"]
                np.savez(file, **{name: np.array([bomb], dtype=object) for name in names})
            case _:
                pickle.dump(bomb, file)


def fifo(path: Path) -> None:
    """Whoever opens it waits for a writer that never comes."""
    path.unlink()
    os.mkfifo(path)


def unreadable(path: Path) -> None:
    """A folder where the file was: what nobody may read, even root, who may read a file without permissions."""
    path.unlink()
    path.mkdir()


def wrong_magic(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes((b"\0wrong\0\1\2\3\4\5\6\7\10\11" * 2)[: min(16, len(content))] + content[16:])


def huge_length(path: Path) -> None:
    """A head that promises more than any machine holds."""
    content = path.read_bytes()
    match path.suffix.lower():
        case ".npy":
            head = {"descr": "|u1", "fortran_order": False, "shape": (2**50, 3)}
            with path.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, head)
        case ".png":
            width_on = content[12:16] + struct.pack(">II", 2**31 - 1, 2**31 - 1) + content[24:29]
            path.write_bytes(content[:12] + width_on + struct.pack(">I", zlib.crc32(width_on)) + content[33:])
        case ".jpg" | ".jpeg":
            at = next((content.index(mark) for mark in (b"\xff\xc0", b"\xff\xc2") if mark in content), 0)
            path.write_bytes(content[: at + 5] + b"\xff\xff\xff\xff" + content[at + 9 :])
        case ".json":
            path.write_text("[" * 100_000)
        case ".txt" | ".csv" | ".lst":
            path.write_bytes(b"9" * 5000 + content)
        case ".parquet":
            path.write_bytes(content[:-8] + b"\xff\xff\xff\x7f" + content[-4:])
        case ".mat" if content.startswith(b"MATLAB 5.0"):
            path.write_bytes(content[:132] + b"\xff\xff\xff\x7f" + content[136:])
        case _:  # the lengths of most binary formats stand in the first bytes
            path.write_bytes(content[:4] + b"\xff\xff\xff\xff\xff\xff\xff\x7f" + content[12:])


def repeated(path: Path) -> None:
    """All of it twice, which some formats pass over: those end with what they hold."""
    path.write_bytes(path.read_bytes() * 2)


DAMAGES: dict[str, Callable[[Path], None]] = {
    damage.__name__: damage
    for damage in (
        *(truncated, empty, other_type, other_shape, pickled),
        *(fifo, unreadable, wrong_magic, huge_length, repeated),
    )
}
"""By name; each damages a file in place."""


def refused(call: Callable[[], Any], path: Path, *, unless: Any = _NOTHING) -> str:
    """The message of the ConfigError that `call` ends in: one or two lines, which name the damaged file; it comes
    within seconds, and nothing pickled was run. "" where `call` returns what equals `unless`, what the undamaged files
    give: that damage is harmless to this reader."""
    with _limit(path):
        try:
            found = call()
        except ConfigError as error:
            message = str(error)
        else:
            assert unless is not _NOTHING, f"{path} was read as if it were whole"
            assert found == unless, f"{path} was read as something else"
            message = ""
    assert not Path(f"{path}{_EXECUTED}").exists(), f"{path} was unpickled, and run"
    if message:
        assert len(message.splitlines()) <= 2, message
        assert path.name in message, message
    return message


@contextmanager
def _limit(path: Path) -> Iterator[None]:
    """Fails after SECONDS, and lets go whoever waits for the FIFO, so that no thread is left behind."""

    def stop(*_: Any) -> None:
        if path.is_fifo():
            os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        pytest.fail(f"{path} is still being read after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


_EXECUTED = ".executed"


class _Bomb:
    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


def _npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def _mat(path: Path) -> dict[str, Any] | None:
    """None of a file that only shares the ending with MATLAB, such as small NORB's."""
    from scipy.io import loadmat

    if not path.read_bytes().startswith(b"MATLAB 5.0"):
        return None
    return {name: value for name, value in loadmat(path).items() if not name.startswith("__")}


def _save_mat(path: Path, values: dict[str, Any]) -> None:
    from scipy.io import savemat

    content = io.BytesIO()
    savemat(content, values)
    path.write_bytes(content.getvalue())


def _save_parquet(path: Path, columns: dict[str, list[Any]]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path)
