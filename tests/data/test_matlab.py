import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from peft_vision.core.config import ConfigError
from peft_vision.data.matlab import read_mat, texts


def cells(*values: object) -> np.ndarray:
    found = np.empty((len(values), 1), dtype=object)
    found[:, 0] = values
    return found


def structs(count: int) -> np.ndarray:
    table = np.empty((1, count), dtype=[("name", object), ("class", object)])
    table[0, :] = [(f"{number}.jpg", np.uint8(number)) for number in range(count)]
    return table


VALUES = {
    "labels": np.arange(9, dtype=np.uint8)[None],
    "pixels": np.random.default_rng(0).integers(0, 256, (4, 5, 3, 7), dtype=np.uint8),
    "real": np.array([[0.5, -1.0]]),
    "letters": np.array(["abc", "de "]),
    "word": "text",
    "words": cells("a", "bb", "", np.zeros((0, 0))),
    "table": structs(3),
    "nested": cells(cells("a"), structs(1)),
    "umlaut": "Grün",
}


def plain(value: object) -> object:
    """What `==` compares at any depth."""
    if isinstance(value, np.ndarray) and value.dtype.names:
        return value.dtype.names, plain(value.tolist())
    if isinstance(value, np.ndarray):
        return value.shape, plain(value.tolist())
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("squeeze", [True, False])
def test_variables_are_read_as_scipy_reads_them(tmp_path: Path, packed: bool, squeeze: bool):
    file = tmp_path / "a.mat"
    savemat(file, VALUES, do_compression=packed)
    expected = loadmat(file, squeeze_me=squeeze)
    for name, found in zip(VALUES, read_mat(file, *VALUES, squeeze=squeeze), strict=True):
        assert plain(found) == plain(np.atleast_1d(expected[name])), name


def refusal(file: Path, *names: str, **values: int) -> str:
    with pytest.raises(ConfigError) as error:
        read_mat(file, *names, **values)
    assert str(file) in str(error.value)
    return str(error.value)


def test_a_variable_is_no_larger_than_it_may_be_and_never_unpacked_beyond(tmp_path: Path):
    file = tmp_path / "a.mat"
    savemat(file, {"bomb": np.zeros(10**6, np.uint8), "labels": np.arange(3)}, do_compression=True)
    assert file.stat().st_size < 10_000
    assert "bomb has 100,001 bytes, more than the 100,000" in refusal(file, "bomb", largest=100_000)
    assert read_mat(file, "labels", largest=100_000)[0].tolist() == [0, 1, 2]  # what is beside it does not matter
    assert "has no variable 'label'; it is not the published file" in refusal(file, "label")


def changed(file: Path, value: object, old: bytes, new: bytes) -> Path:
    savemat(file, {"a": value})
    content = file.read_bytes()
    assert content.count(old) == 1
    file.write_bytes(content.replace(old, new))
    return file


def nested(file: Path, depth: int) -> Path:
    value = cells("a")
    for _ in range(depth - 1):
        value = cells(value)
    savemat(file, {"a": value})
    return file


SIZES = struct.pack("<IIii", 5, 8, 1, 5)


@pytest.mark.parametrize("sizes", [(1, 6), (1, 4), (2**31 - 1, 2**31 - 1), (-1, 5)])
@pytest.mark.parametrize("value", [np.arange(5.0), cells(*"abcde").T])
def test_a_matrix_has_as_many_values_as_its_sizes_say(tmp_path: Path, sizes: tuple[int, int], value: np.ndarray):
    file = changed(tmp_path / "a.mat", value, SIZES, struct.pack("<IIii", 5, 8, *sizes))
    assert "(ValueError: a matrix that does not hold together)" in refusal(file, "a")


def test_texts_and_structs_are_no_longer_than_they_are(tmp_path: Path):
    more = struct.pack("<IIii", 5, 8, 1, 2**30)
    assert "does not hold together" in refusal(changed(tmp_path / "a.mat", "abcde", SIZES, more), "a")
    table = changed(tmp_path / "b.mat", structs(7), struct.pack("<IIii", 5, 8, 1, 7), more)
    assert "does not hold together" in refusal(table, "a")


def test_matrices_are_not_nested_deep(tmp_path: Path):
    assert len(read_mat(nested(tmp_path / "a.mat", 7), "a")) == 1
    assert "matrices nested more than 8 deep" in refusal(nested(tmp_path / "a.mat", 8), "a")


def test_objects_functions_and_complex_numbers_are_refused(tmp_path: Path):
    savemat(tmp_path / "b.mat", {"a": np.array([1 + 2j])})
    assert "a matrix of class 6, should be of numbers, texts, cells or structs" in refusal(tmp_path / "b.mat", "a")
    flags = struct.pack("<III", 6, 8, 6)  # of a matrix of doubles
    file = changed(tmp_path / "a.mat", np.arange(5.0), flags, struct.pack("<III", 6, 8, 16))
    assert "a matrix of class 16, should be of numbers, texts, cells or structs" in refusal(file, "a")


@pytest.mark.parametrize(
    ("version", "content"),
    [(b"\x00\x02IM", b""), (b"\x00\x00\x00\x00", b"\0" * 200), (b"\x00\x01IM", struct.pack("<II", 14, 2**31)),
     (b"\x00\x01IM", struct.pack("<II", 3, 0)), (b"\x00\x01IM", b"\x0e\0\0"),
     (b"\x00\x01IM", struct.pack("<IIII", 14, 8, 6, 0))],
)  # fmt: skip
def test_other_formats_and_torn_files_are_refused(tmp_path: Path, version: bytes, content: bytes):
    file = tmp_path / "a.mat"
    file.write_bytes(b"MATLAB".ljust(124) + version + content)
    assert "), should be a MATLAB file of a; fetch it again" in refusal(file, "a")


def test_only_texts_are_texts(tmp_path: Path):
    file = tmp_path / "a.mat"
    assert texts(file, np.array(["a", "b"]), what="names") == ["a", "b"]
    for values in (np.arange(3), np.array([["a"]]), np.array(["a", 3], dtype=object), np.array([])):
        with pytest.raises(ConfigError, match="as names, should be a list of texts"):
            texts(file, values, what="names")
