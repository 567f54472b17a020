"""`peft-vision task=cache`: what a person sees of the feature store, and can do to it."""

import pytest

from command import SMOKE, call


@pytest.fixture
def filled(tmp_path):
    assert call(*SMOKE, cwd=tmp_path).code == 0
    return tmp_path


def entries(folder) -> list:
    return sorted((folder / "store").glob("*.safetensors"))


def test_an_empty_or_missing_store_is_no_error(tmp_path):
    for action in ("list", "verify", "clear"):
        outcome = call("task=cache", f"task.action={action}", cwd=tmp_path)
        assert (outcome.code, outcome.err) == (0, "")
        assert "0 entries" in outcome.out


def test_it_lists_what_there_is_in_any_width_of_terminal(filled, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    lines = call("task=cache", cwd=filled).out.splitlines()
    assert len(lines) == 1 + 3 + 1
    for path in entries(filled):
        (line,) = [line for line in lines if path.stem in line]
        assert "vit_tiny_patch16_224" in line
        assert line.rstrip().endswith("not verified")
    assert {line.split()[2] for line in lines[1:4]} == {"train", "val", "test"}
    assert {line.split()[3] for line in lines[1:4]} == {"36", "4", "40"}
    assert lines[-1].startswith("3 entries, 0.0 MiB of at most 50 GiB, in ")


def test_verifying_reads_every_byte_and_removes_what_is_broken(filled):
    assert "all are whole" in call("task=cache", "task.action=verify", cwd=filled).out
    broken = entries(filled)[0]
    content = bytearray(broken.read_bytes())
    content[-1] ^= 1
    broken.write_bytes(content)
    assert "whole" not in call("task=cache", cwd=filled).out.replace("not verified", "")
    outcome = call("task=cache", "task.action=verify", cwd=filled)
    assert "broken: its checksum is wrong" in outcome.out
    assert "removed 1 broken" in outcome.out
    assert len(entries(filled)) == 2


def test_clearing_removes_the_stores_own_files_only(filled):
    (filled / "store" / "adapter.safetensors").write_text("mine")
    assert "removed 3 entries" in call("task=cache", "task.action=clear", cwd=filled).out
    assert [path.name for path in entries(filled)] == ["adapter.safetensors"]


def test_an_unknown_action_is_refused(tmp_path):
    said = call("task=cache", "task.action=purge", cwd=tmp_path).error
    assert said == "task.action: got 'purge', should be 'list', 'verify' or 'clear'"
