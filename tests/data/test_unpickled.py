import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from peft_vision.core.config import ConfigError
from peft_vision.data.unpickled import read_pickle

# {"data": uint8 (2, 3) of "abcdef", "labels": [1, 2]} as Python 2 and its NumPy write it, which published CIFAR
PYTHON_2 = (
    b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85q\x05"
    b"U\x01bq\x06\x87q\x07Rq\x08(K\x01K\x02K\x03\x86q\tcnumpy\ndtype\nq\nU\x02u1q\x0bK\x00K\x01\x87q\x0cRq\r"
    b"(K\x03U\x01|q\x0eNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0fb\x89U\x06abcdefq\x10tq\x11b"
    b"U\x06labelsq\x12]q\x13(K\x01K\x02eu."
)


def read(folder: Path, content: bytes) -> dict:
    file = folder / "batch"
    file.write_bytes(content)
    return read_pickle(file, "a pickle of data", key="data", remedy="fetch it again")


def refusal(folder: Path, content: bytes) -> str:
    with pytest.raises(ConfigError) as error:
        read(folder, content)
    assert str(error.value).startswith(f"data: cannot read {folder}/batch (")
    assert str(error.value).endswith("), should be a pickle of data; fetch it again")
    return str(error.value)


def test_what_python_2_wrote_is_read_as_pickle_reads_it(tmp_path: Path):
    found, expected = read(tmp_path, PYTHON_2), pickle.loads(PYTHON_2, encoding="latin1")
    assert found["labels"] == expected["labels"] == [1, 2]
    array = found["data"].array()
    assert array.tolist() == expected["data"].tolist() == [[97, 98, 99], [100, 101, 102]]
    assert array.dtype == expected["data"].dtype == np.uint8


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize(
    "values", [np.arange(6, dtype=np.uint8).reshape(2, 3), np.arange(6, dtype=">i4").reshape(3, 2).T, np.eye(2) > 0]
)
def test_arrays_of_later_protocols_are_read(tmp_path: Path, protocol: int, values: np.ndarray):
    content = {"data": values, "names": ["a", "ü"], "numbers": [1, 2**40, -1.5, None, True], "inner": {b"x": (1, 2)}}
    found = read(tmp_path, pickle.dumps(content, protocol))
    array = found.pop("data").array()
    assert np.array_equal(array, values)
    assert array.dtype == values.dtype
    assert found == {key: value for key, value in content.items() if key != "data"}


class _Call:
    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "call", [_Call(os.mkdir, "made"), _Call(eval, "1"), _Call(np.load, "x"), _Call(np.dtype, "O"), _Call(bytearray, 9)]
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_no_function_is_ever_called(tmp_path: Path, call: _Call, protocol: int, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps({"data": call}, protocol)
    if call.call[0] is np.dtype:  # a stand-in, which makes no array of it
        with pytest.raises(AttributeError):
            read(tmp_path, content)["data"].array()
    else:
        assert "only plain values and arrays are read" in refusal(tmp_path, content)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\x80\x02]q\x00.", "TypeError: a list, should be a dict"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", "LONG_BINPUT 2147483647 at byte 3, the 3th instruction"),
        (b"}p2000000000\n.", "PUT 2000000000"),
        (b"\x80\x04" + b")\x85" * 2000 + b".", "more than 1000 tuples"),
        (b"\x80\x04\x96\xff\xff\xff\xff\xff\x00\x00\x00.", "expected 1099511627775 bytes in a bytearray8"),
        (b"\x80\x02}\x82\x01s.", "EXT1 at byte 3"),
        (b"\x80\x02P1\n.", "PERSID at byte 2"),
        (b"\x80\x04}\x91.", "FROZENSET at byte 3"),
        (b"(cos\nmkdir\no.", "OBJ at byte"),
    ],
)
def test_a_pickle_that_asks_for_more_is_refused_before_it_runs(tmp_path: Path, content: bytes, why: str):
    assert why in refusal(tmp_path, content)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b"K\x02K\x03\x86", b"K\x02K\x04\x86", r"6 bytes for an array of \(2, 4\) uint8"),
        (b"K\x02K\x03\x86", b"J\xff\xff\xff\xffK\x03\x86", r"6 bytes for an array of \(-1, 3\)"),
        (b"U\x02u1", b"U\x02O8", "an array of object, should be of numbers"),
        (b"U\x02u1", b"U\x02V6", "an array of .*, should be of numbers"),
    ],
)
def test_an_array_that_does_not_hold_together_is_refused(tmp_path: Path, old: bytes, new: bytes, why: str):
    assert PYTHON_2.count(old) == 1
    array = read(tmp_path, PYTHON_2.replace(old, new))["data"]
    with pytest.raises(ValueError, match=why):
        array.array()
