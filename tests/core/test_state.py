"""A state is what was written, or nothing goes on from it."""

import os
import re
import zipfile
from pathlib import Path

import pytest
import torch

from peft_vision.core.tensor_files import Damaged, check_tensors, read_state, write_state

STATE = {"tuned": {"head.weight": torch.arange(12.0).view(3, 4)}, "standing": {"epochs": 3, "best": None}}


@pytest.fixture
def path(tmp_path):
    write_state(STATE, tmp_path / "state.pt")
    return tmp_path / "state.pt"


def assert_same(found):
    assert torch.equal(found["tuned"]["head.weight"], STATE["tuned"]["head.weight"])
    assert found["standing"] == STATE["standing"]


def test_what_was_written_is_read_here_and_by_torch(path):
    assert_same(read_state(path))
    assert_same(torch.load(path, weights_only=True))
    assert zipfile.ZipFile(path).testzip() is None


def test_every_flipped_bit_is_noticed(path):
    whole = path.read_bytes()
    for place in range(len(whole)):
        broken = bytearray(whole)
        broken[place] ^= 1 << place % 8
        path.write_bytes(broken)
        with pytest.raises(Damaged):
            read_state(path)


def test_whatever_was_cut_off_or_added_is_noticed(path):
    whole = path.read_bytes()
    for content in (*(whole[:size] for size in range(0, len(whole), 7)), whole[:-1], whole + b"\0", whole[34:]):
        path.write_bytes(content)
        with pytest.raises(Damaged):
            read_state(path)


def test_of_a_file_of_16_gib_only_the_end_is_read(path):
    os.truncate(path, 2**34)
    before = num_bytes_read()
    with pytest.raises(Damaged, match="its end is missing"):
        read_state(path)
    assert num_bytes_read() - before < 2**20


def num_bytes_read() -> int:
    """Of this process, as Linux counts them."""
    return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1])


def test_a_state_of_the_first_version_is_read_while_it_is_whole(path):
    torch.save(STATE, path)  # as it was written there
    assert_same(read_state(path))
    whole = path.read_bytes()
    place = whole.index(STATE["tuned"]["head.weight"].numpy().tobytes()) + 5
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
    unnoticed = torch.load(path, weights_only=True)  # torch itself does not notice
    assert not torch.equal(unnoticed["tuned"]["head.weight"], STATE["tuned"]["head.weight"])
    with pytest.raises(Damaged, match="checksum of its"):
        read_state(path)


@pytest.mark.parametrize("content", [b"", b"state", b"PK\5\6" + 18 * b"\0", os.urandom(5000)])
def test_what_is_no_state_is_damaged(content, path):
    path.write_bytes(content)
    with pytest.raises(Damaged):
        read_state(path)


def test_what_would_run_code_is_not_run(path, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    write_state({"tuned": Evil()}, path)
    with pytest.raises(Damaged, match="torch cannot read it"):
        read_state(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("nowhere", path)])
def test_what_is_no_file_is_neither_waited_for_nor_taken_for_nothing(make, tmp_path):
    make(tmp_path / "state.pt")
    with pytest.raises(Damaged, match="it is no file"):
        read_state(tmp_path / "state.pt")


def test_where_there_is_none_there_is_none(tmp_path):
    assert read_state(tmp_path / "state.pt") is None


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"w": torch.zeros(2, dtype=torch.float64)}, r"w is float64 \(2,\), should be float32 \(2,\)"),
        ({"w": torch.zeros(2, dtype=torch.int8)}, r"w is int8"),
        ({"w": torch.zeros(3)}, r"w is float32 \(3,\), should be float32 \(2,\)"),
        ({"w": [0.0, 0.0]}, "w is a list"),
        ({"v": torch.zeros(2)}, "other names"),
        ({}, "other names"),
        (None, "other names"),
    ],
)
def test_tensors_of_another_kind_are_refused(found, said):
    check_tensors({"w": torch.ones(2)}, {"w": torch.zeros(2)}, "its tensors")
    with pytest.raises(Damaged, match=said):
        check_tensors(found, {"w": torch.zeros(2)}, "its tensors")
