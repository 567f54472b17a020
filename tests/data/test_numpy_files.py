import io
from pathlib import Path

import numpy as np
import pytest

from peft_vision.data.numpy_files import map_values, read_head, read_values


def head(shape: tuple[int, ...], kind: str = "|u1", *, version: int = 1) -> bytes:
    content = io.BytesIO()
    write = {1: np.lib.format.write_array_header_1_0, 2: np.lib.format.write_array_header_2_0}[version]
    write(content, {"descr": kind, "fortran_order": False, "shape": shape})
    return content.getvalue()


@pytest.mark.parametrize(
    "values",
    [
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(5, dtype=">i8"),
        np.float32(3),
    ],
)
def test_an_array_is_mapped_and_read_as_numpy_saved_it(tmp_path: Path, values: np.ndarray):
    file = tmp_path / "a.npy"
    np.save(file, values)
    content = file.read_bytes()
    for found in (map_values(file), read_values(io.BytesIO(content), size=len(content), largest=1000)):
        assert np.array_equal(found, values)
        assert found.dtype == np.asarray(values).dtype
        assert found.flags.f_contiguous == np.asarray(values).flags.f_contiguous


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (head((10**12,)) + b"abc", r"bytes, should hold \(1000000000000,\) uint8"),
        (head((2**32, 2**32)) + b"abc", "bytes, should hold"),  # a product of 0 in 64 bits
        (head((4,)) + b"abc", r"131 bytes, should hold \(4,\) uint8"),
        (head((-1,)) + b"abc", r"a shape of \(-1,\)"),
        (head((1,), "|O") + b"abc", "objects, which are not unpickled"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "a head of 4,294,967,295 bytes"),
        (b"\x93NUMPY\x09\x00\x10\x00", "version 9 of the format"),
        (b"\x93NUMPY\x01\x00\x10\x00__import__('os')", "parse|malformed|header"),
        (b"PK\x03\x04 and more", "magic string"),
        (b"", "EOF"),
    ],
)
def test_a_file_is_refused_before_anything_is_allocated(tmp_path: Path, content: bytes, why: str):
    file = tmp_path / "a.npy"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=why):
        map_values(file)


def test_a_stream_gives_no_more_than_it_has_and_may():
    content = head((3,), version=2) + b"abc"
    assert read_values(io.BytesIO(content), size=len(content), largest=3).tolist() == [97, 98, 99]
    for size, largest in ((len(content), 2), (2, 3)):
        with pytest.raises(ValueError, match=r"an array of \(3,\) uint8 in"):
            read_values(io.BytesIO(content), size=size, largest=largest)
    with pytest.raises(ValueError, match="2 bytes of an array of 3"):
        read_values(io.BytesIO(content[:-1]), size=len(content), largest=3)


def test_a_head_says_shape_order_and_type():
    assert read_head(io.BytesIO(head((2, 3), "<f4"))) == ((2, 3), False, np.dtype("<f4"))
