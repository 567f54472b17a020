"""What is read back is bounded and plain, and anything else is one line that names the file."""

import json
import os
import time

import pytest

from peft_vision.core.records import (
    Bounds,
    Count,
    Finite,
    Record,
    Unreadable,
    exists,
    read_json,
    read_json_lines,
    read_record,
    read_yaml,
    sealed,
    unsealed,
)

READERS = (read_json, read_yaml)
SMALL = Bounds(size=100, depth=3, text=10, values=6)


def refused(read, path, *arguments) -> str:
    """The line, after checking that it came at once."""
    begun = time.process_time()
    with pytest.raises(Unreadable) as error:
        read(path, *arguments, remedy="mend it")
    assert time.process_time() - begun < 1
    line, remedy = str(error.value).splitlines()
    assert remedy == "mend it"
    assert line == f"cannot read {path}: {error.value.reason}"
    return error.value.reason


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.json"


@pytest.mark.parametrize("read", READERS)
def test_plain_values_are_what_was_written(read, path):
    path.write_text('{"a": [1, -2.5, true, null, "\\u00fc"], "b": {"c": 18446744073709551615}}')
    assert read(path) == {"a": [1, -2.5, True, None, "ü"], "b": {"c": 2**64 - 1}}


@pytest.mark.parametrize("read", READERS)
def test_a_file_name_that_is_no_utf_8_is_text(read, path):
    path.write_text('["caf\\udce9"]')
    assert read(path) == [os.fsdecode(b"caf\xe9")]


def test_only_regular_files_are_opened(path, tmp_path):
    os.mkfifo(path)
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "dangling").symlink_to("nowhere")
    for read in READERS:
        assert refused(read, path) == "a FIFO, should be a regular file"
        assert refused(read, tmp_path / "zero") == "a device, should be a regular file"
        assert refused(read, tmp_path) == "a folder, should be a regular file"
        assert refused(read, tmp_path / "dangling") == "No such file or directory"
    assert [exists(file) for file in (path, tmp_path / "zero", tmp_path / "dangling")] == [True, True, True]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1, 2, 3, 4, 5]" + 86 * " ", "it has 101 bytes, more than the 100 of any such file"),
        ("[1, 2, 3, 4, 5, 6]", "it holds more than 6 values"),
        ("[[[[1]]]]", "nested more than 3 levels deep"),
        ('["12345678901"]', "a text of 11 characters, at most 10 are read"),
        ('{"12345678901": 1}', "a text of 11 characters, at most 10 are read"),
    ],
)
@pytest.mark.parametrize("read", READERS)
def test_every_bound_holds(read, text, reason, path):
    path.write_text(text)
    assert refused(read, path, SMALL) == reason


@pytest.mark.parametrize("read", READERS)
def test_what_just_keeps_the_bounds_is_read(read, path):
    path.write_text('[[[1]], "1234567890"]' + 79 * " ")
    assert read(path, SMALL) == [[[1]], "1234567890"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no JSON: Expecting value"),
        ("[" * 200_000, "nested more than 32 levels deep"),
        ('{"a": "\\ud800"}', "'\\ud800' holds half a character (a lone surrogate)"),
        ('{"\\ude00": 1}', "'\\ude00' holds half a character (a lone surrogate)"),
        ("9" * 5000, "no JSON: Exceeds the limit"),
        (str(2**64), "a whole number of 65 bits, at most 64 are read"),
        (str(-(2**63) - 1), "a whole number of 64 bits, at most 64 are read"),
        ("\x00\xff", "no JSON"),
    ],
)
def test_what_is_no_sane_json_is_named(text, reason, path):
    path.write_bytes(text.encode("latin-1"))
    assert refused(read_json, path).startswith(reason)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "no YAML: while parsing"),
        ("[" * 200_000, "no YAML: nested more than 32 levels deep"),
        ("&a [*a]", "nested more than 32 levels deep"),
        ("\n".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}' if n else '0'] * 10)}]" for n in range(9)), "it holds more"),
        ("a: &a {b: 1}\nc: {<<: [*a, *a]}", "no YAML: merge keys"),
        ("2001-01-01", "datetime.date(2001, 1, 1) is no plain value but a date"),
        ("!!python/object/apply:os.system [false]", "no YAML: could not determine a constructor"),
        ("? [a]\n: b", "no YAML: while constructing a mapping"),
        ("2001-99-99", "no YAML: month must be in 1..12"),
        ("!!binary é", "no YAML"),
        ("\udc80", "no YAML: 'utf-8' codec can't decode"),
    ],
)
def test_what_is_no_plain_yaml_is_named(text, reason, path):
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert refused(read_yaml, path).startswith(reason)


def test_a_device_is_not_even_opened(tmp_path, monkeypatch):
    """To open one may already do something, such as rewind a tape."""
    (tmp_path / "zero").symlink_to("/dev/zero")
    monkeypatch.setattr(os, "open", None)
    assert refused(read_json, tmp_path / "zero") == "a device, should be a regular file"


class Score(Record):
    accuracy: Finite
    images: Count


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "Input should be a valid dictionary or instance of Score; got []"),
        ('{"images": 1}', "accuracy: Field required"),
        ('{"accuracy": NaN, "images": 1}', "accuracy: Input should be a finite number; got nan"),
        ('{"accuracy": 1e308, "images": 1}', "accuracy: Input should be less than or equal to 1000"),
        ('{"accuracy": true, "images": 1}', "accuracy: Input should be a valid number; got True"),
        ('{"accuracy": "1", "images": 1}', "accuracy: Input should be a valid number; got '1'"),
        ('{"accuracy": 1, "images": -1}', "images: Input should be greater than or equal to 0; got -1"),
        ('{"accuracy": 1, "images": 1.0}', "images: Input should be a valid integer; got 1.0"),
        ('{"accuracy": 1, "images": 9007199254740993}', "images: Input should be less than or equal to 9007"),
    ],
)
def test_a_record_says_what_a_number_may_be(text, reason, path):
    path.write_text(text)
    assert refused(read_record, path, Score).startswith(reason)


def test_a_record_of_a_later_version_may_say_more(path):
    path.write_text('{"accuracy": 1, "images": 3, "mood": "good"}')
    assert read_record(path, Score) == Score(accuracy=1.0, images=3)


def test_lines_that_hold_no_record_are_left_out(path):
    lines = ['{"epoch": 1}', "[1]", '{"epoch": "\\ud800"}', '{"a": ' * 20 + "1" + "}" * 20, '{"epoch": 2}', '{"epoch"']
    path.write_text("\n".join(lines))
    assert read_json_lines(path) == ([{"epoch": 1}, {"epoch": 2}], 4)


def test_an_error_repeats_no_control_characters_and_no_essay(path):
    path.write_text('{"accuracy": "' + "\\u001b[31m\\nred " * 1000 + '", "images": 1}')
    reason = refused(read_record, path, Score)
    assert "\x1b" not in reason
    assert len(reason) < 200


def test_a_record_that_was_changed_after_it_was_written_is_named(tmp_path, caplog):
    path = tmp_path / "result.json"
    whole = sealed({"accuracy": 0.9304, "seeds": (1, 2), "type": int})
    assert unsealed(json.loads(json.dumps(whole)), path) == {"accuracy": 0.9304, "seeds": [1, 2], "type": repr(int)}
    assert unsealed({"accuracy": 0.5}, path) == {"accuracy": 0.5}  # of version 0.1.0
    assert caplog.text == ""
    assert unsealed({**whole, "accuracy": 0.9704}, path)["accuracy"] == 0.9704
    assert f"{path} is not as it was written: it was edited, or is damaged" in caplog.text
