import csv
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from peft_vision.core.config import ConfigError
from peft_vision.data import reading as module
from peft_vision.data.reading import is_inside, names_in, read_json, read_lines, reading, refuse_repeated


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "list.txt"
    path.write_text("a\nb\n")
    return path


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (FileNotFoundError(2, "No such file or directory"), "No such file or directory"),
        (OSError("a FIFO"), "a FIFO"),
        (KeyError("label"), "KeyError: 'label'"),
        (IndexError("3"), "IndexError: 3"),
        (struct.error("short"), "error: short"),
        (zlib.error("torn"), "error: torn"),
        (EOFError("end"), "EOFError: end"),
        (zipfile.BadZipFile("no zip"), "BadZipFile: no zip"),
        (pickle.UnpicklingError("no pickle"), "UnpicklingError: no pickle"),
        (csv.Error("a zero"), "Error: a zero"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), "UnicodeDecodeError: 'utf-8' codec"),
        (RecursionError("deep"), "RecursionError: deep"),
        (OverflowError("large"), "OverflowError: large"),
        (MemoryError(), "it asks for more memory than there is"),
        (ValueError("of two\nlines\x1b[2J"), "ValueError: of two lines"),
    ],
)
def test_whatever_goes_wrong_is_one_line_of_the_file(file: Path, error: Exception, why: str):
    with pytest.raises(ConfigError) as found, reading(file, "a list", remedy="repair it"):
        raise error
    message = str(found.value)
    assert message.startswith(f"data.root: cannot read {file} ({why}")
    assert message.endswith("), should be a list; repair it")
    assert message.isprintable()


@pytest.mark.parametrize("error", [ConfigError("data: said before"), KeyboardInterrupt(), AssertionError("ours")])
def test_what_is_no_fault_of_the_file_passes(file: Path, error: BaseException):
    with pytest.raises(type(error)) as found, reading(file, "a list"):
        raise error
    assert found.value is error


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_regular_file_is_not_opened(tmp_path: Path, make):
    make(tmp_path / "x")
    for read in (read_lines, read_json):
        with pytest.raises(
            ConfigError, match=rf"^data: cannot read {tmp_path}/x \(.* should be a regular file\), should"
        ):
            read(tmp_path / "x", "a list", key="data")


def test_a_text_is_read_by_lines_and_in_bounds(file: Path, monkeypatch):
    assert read_lines(file, "a list") == ["a", "b"]
    file.write_bytes("\ufeffä\r\n".encode())
    assert read_lines(file, "a list", encoding="utf-8-sig") == ["ä"]
    monkeypatch.setattr(module, "LARGEST_TEXT", 6)
    with pytest.raises(ConfigError, match="it has 7 bytes, more than the 6 of any such file"):
        read_lines(file, "a list")


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "{", '"\\ud800"', "[1e5, 123456789012345678901234567890]"])
def test_json_that_no_reader_takes_is_refused(file: Path, text: str):
    file.write_text(text)
    with pytest.raises(ConfigError, match=rf"cannot read {file} \(.*\), should be an object; fetch it again"):
        read_json(file, "an object")


def test_a_name_comes_once(file: Path):
    refuse_repeated(["a", "b", 3], file)
    with pytest.raises(ConfigError, match=rf"^data: {file} names b a second time"):
        refuse_repeated(["a", "b", "c", "b"], file, key="data")


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("a/b.jpg", True),
        ("a..b/...", True),
        ("ä" * 127, True),
        ("ä" * 128, False),
        ("/etc/passwd", False),
        ("a/../../b", False),
        ("a\0b", False),
        ("", False),
    ],
)
def test_a_path_that_a_file_names_stays_inside(path: str, inside: bool):
    assert is_inside(path) is inside


def test_a_folder_that_cannot_be_listed_is_named(file: Path):
    assert names_in(file.parent) == {"list.txt"}
    with pytest.raises(ConfigError, match=rf"^data.root: cannot list folder {file} \(Not a directory\)"):
        names_in(file)
