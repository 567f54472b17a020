"""The header of a safetensors file is believed only where it fits the file."""

import json

import pytest
import torch
from safetensors.torch import save

from peft_vision.core.records import Unreadable
from peft_vision.core.tensor_files import TensorPlace, read_header

ONE = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}


def written(path, header: object, *, data: int = 24, length: int | None = None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + bytes(data))
    return path


def test_it_says_where_every_tensor_lies(tmp_path):
    tensors = {"b": torch.arange(6.0).view(2, 3), "metadata": torch.ones(2).bfloat16(), "none": torch.ones(0, 4)}
    path = tmp_path / "a.safetensors"
    path.write_bytes(save(tensors, {"made by": "hand"}))
    header = read_header(path)
    assert header.metadata == {"made by": "hand"}
    assert {name: entry.shape for name, entry in header.tensors.items()} == {
        n: tuple(t.shape) for n, t in tensors.items()
    }
    place = header.tensors["b"]
    content = path.read_bytes()[place.begin : place.begin + place.num_bytes]
    assert torch.frombuffer(bytearray(content), dtype=torch.float32).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_file_needs_no_metadata(tmp_path):
    header = read_header(written(tmp_path / "a", ONE))
    assert (header.metadata, header.tensors) == ({}, {"a": TensorPlace("F32", (2, 3), 8 + len(json.dumps(ONE)), 24)})


def test_the_reader_says_which_types_it_takes(tmp_path):
    path = written(tmp_path / "a", {"a": {"dtype": "I64", "shape": [3], "data_offsets": [0, 24]}})
    assert read_header(path, dtypes={"I64"}).tensors["a"].dtype == "I64"
    with pytest.raises(Unreadable, match="tensor a: its type is I64, should be BF16, F16, F32, F64"):
        read_header(path)


def tensor(**values: object) -> dict:
    return {"a": {**ONE["a"], **values}}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"{", "no safetensors file"),
        (b"[]", "valid dictionary"),
        (b"nonsense", "no JSON"),
        (b'{"a":' * 50 + b"1" + b"}" * 50, "nested more than 8 levels"),
        (tensor(dtype="BOOL"), "its type is BOOL"),
        (tensor(dtype="C64"), "its type is C64"),
        (tensor(dtype=7), "dtype: Input should be a valid string"),
        (tensor(shape=[2, -3]), "greater than or equal to 0"),
        (tensor(shape=[10**9, 10**9]), "24 bytes for shape"),
        (tensor(shape=[2, 2]), "24 bytes for shape"),
        (tensor(shape=[2**60]), "less than or equal"),
        (tensor(shape=[1] * 9), "at most 8 items"),
        (tensor(shape="23"), "should be a valid list"),
        (tensor(data_offsets=[24, 0]), "-24 bytes for shape"),
        (tensor(data_offsets=[0, 24, 48]), "at most 2 items"),
        (tensor(data_offsets=[24, 48]), "begins at byte"),
        ({"a": None}, "valid dictionary"),
        ({**ONE, "b": {"dtype": "F32", "shape": [2], "data_offsets": [16, 24]}}, "tensor b: begins at byte"),
        ({**ONE, "__metadata__": {"a": 1}}, "__metadata__.a: Input should be a valid string"),
        ({**ONE, "__metadata__": {"a": {"b": "c"}}}, "__metadata__.a: Input should be a valid string"),
        ({"\ud800": ONE["a"]}, "lone surrogate"),
    ],
)
def test_a_forged_header_is_one_line(header, reason, tmp_path):
    with pytest.raises(Unreadable, match=reason) as error:
        read_header(written(tmp_path / "a", header))
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**63])
def test_a_header_that_does_not_fit_is_not_read(length, tmp_path):
    with pytest.raises(Unreadable, match="its header does not fit into it"):
        read_header(written(tmp_path / "a", ONE, length=length))


@pytest.mark.parametrize("data", [0, 23, 25])
def test_a_file_that_was_cut_off_or_has_a_tail_is_refused(data, tmp_path):
    with pytest.raises(Unreadable, match=r"its tensors end at byte .*, the file at"):
        read_header(written(tmp_path / "a", ONE, data=data))


@pytest.mark.parametrize("content", [b"", b"\x02", b"\x00" * 8])
def test_a_file_of_a_few_bytes_is_none(content, tmp_path):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(Unreadable, match="no safetensors file"):
        read_header(tmp_path / "a")
