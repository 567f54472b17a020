"""A stored tensor is whole and what it says it is, or it is not used."""

import json

import pytest
import torch
from safetensors import safe_open

from peft_vision.features import entry as module
from peft_vision.features.entry import Broken, CacheEntry, Writer, inspect

ROWS = torch.arange(24.0).view(4, 2, 3)


def an_entry(folder, *, dtype=torch.float32, key="0123", shape=(4, 2, 3)) -> CacheEntry:
    return CacheEntry(path=folder / "0123-features.safetensors", key=key, shape=shape, dtype=dtype)


def written(folder, **options) -> CacheEntry:
    entry = an_entry(folder, **options)
    writer = Writer(entry, {"backbone": "vit"})
    for rows in ROWS.split(3):
        writer.write(rows)
    writer.place()
    return entry


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_was_written_is_read(dtype, tmp_path):
    entry = written(tmp_path, dtype=dtype)
    assert torch.equal(entry.open(), ROWS.to(dtype))
    assert [path.name for path in tmp_path.iterdir()] == [entry.path.name]
    assert inspect(entry.path, thoroughly=True).origin == {"backbone": "vit"}


def test_any_safetensors_reader_opens_it(tmp_path):
    with safe_open(written(tmp_path).path, framework="pt") as file:
        assert torch.equal(file.get_tensor("rows"), ROWS)
        assert json.loads(file.metadata()["origin"]) == {"backbone": "vit"}


def test_every_flipped_bit_is_noticed(tmp_path):
    entry = written(tmp_path)
    whole = entry.path.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            broken = bytearray(whole)
            broken[place] ^= 1 << bit
            entry.path.write_bytes(broken)
            with pytest.raises(Broken):
                entry.open()


def test_whatever_was_cut_off_or_added_is_noticed(tmp_path):
    entry = written(tmp_path)
    whole = entry.path.read_bytes()
    for content in (*(whole[:size] for size in range(len(whole))), whole + b"\0"):
        entry.path.write_bytes(content)
        with pytest.raises(Broken):
            entry.open()


@pytest.mark.parametrize("asked", [{"key": "4567"}, {"shape": (4, 3, 2)}, {"dtype": torch.int32}])
def test_an_entry_of_something_else_is_not_taken(asked, tmp_path):
    written(tmp_path)
    with pytest.raises(Broken, match="something else"):
        an_entry(tmp_path, **asked).open()


def test_another_version_is_named(tmp_path, monkeypatch):
    entry = written(tmp_path)
    monkeypatch.setattr(module, "FORMAT", "peft-vision features 2")
    with pytest.raises(Broken, match=r"another version .'peft-vision features 1', this is 'peft-vision features 2'"):
        entry.open()
    assert inspect(entry.path, thoroughly=False).fault == "written by another version"


def test_nothing_is_there_before_the_last_row_and_nothing_is_left_of_what_was_given_up(tmp_path):
    entry = an_entry(tmp_path)
    writer = Writer(entry, {})
    writer.write(ROWS[:3])
    with pytest.raises(FileNotFoundError):
        entry.open()
    with pytest.raises(ValueError, match="72 of 96 bytes"):
        writer.place()
    writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_of_two_writers_at_once_the_later_is_read_whole(tmp_path):
    entry = an_entry(tmp_path)
    first, second = Writer(entry, {}), Writer(entry, {})
    first.write(ROWS)
    second.write(ROWS + 1)
    first.place()
    assert torch.equal(entry.open(), ROWS)
    second.place()
    assert torch.equal(entry.open(), ROWS + 1)
    first.discard()
    assert torch.equal(entry.open(), ROWS + 1)
