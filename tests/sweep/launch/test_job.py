"""Why a run ended, by its exit code and by what it printed."""

import pytest

from peft_vision.core.config import Busy, ConfigError, Pruned
from peft_vision.sweep.launch import process_launcher as module
from peft_vision.sweep.launch.process_launcher import Job

PROGRESS = "training 3/10 (30 %), 310 images/s"


def ended(folder, printed: str, *, before: str = "") -> Job:
    """A run that printed this, after an earlier attempt had printed that."""
    log = folder / "run.log"
    log.write_text(before)
    job = Job.of(["seed=0"], log)
    with log.open("a") as file:
        file.write(printed)
    return job


@pytest.mark.parametrize(
    ("printed", "code", "reason"),
    [
        ("peft-vision: method: unknown rnk\nLoRA takes rank\n", 1, "method: unknown rnk\nLoRA takes rank"),
        ("Traceback (most recent call last):\n  File x\nOSError: no disk\nnote\n", 1, "OSError: no disk"),
        (f"{PROGRESS}\n", 3, PROGRESS),
        ("", 3, "ended with exit code 3"),
        (f"{PROGRESS}\n", -9, "killed by SIGKILL, as is done where memory runs out; "),
        (f"{PROGRESS}\n", 137, "killed by SIGKILL, as is done where memory runs out; "),  # as a shell tells it
        (f"{PROGRESS}\n", 143, "killed by SIGTERM; "),
        ("peft-vision: stopped; the same command goes on\n", 143, "stopped; the same command goes on"),
        (f"{PROGRESS}\n", 255, PROGRESS),  # there is no signal 127
    ],
)
def test_a_reason_is_its_last_words_or_the_signal(printed, code, reason, tmp_path):
    assert str(ended(tmp_path, printed).fault(code)).startswith(reason)


def test_what_an_earlier_attempt_printed_is_no_reason(tmp_path):
    job = ended(tmp_path, "", before="peft-vision: optimizer.lr: got -1\n")
    assert str(job.fault(1)) == "ended with exit code 1"
    assert str(ended(tmp_path, "new\n", before="peft-vision: old\n").fault(1)) == "new"


@pytest.mark.parametrize(("code", "kind"), [(1, ConfigError), (2, ConfigError), (75, Busy), (76, Pruned)])
def test_an_exit_code_tells_the_kind(code, kind, tmp_path):
    assert type(ended(tmp_path, "peft-vision: said\n").fault(code)) is kind


def test_all_is_well_without_a_reason(tmp_path):
    assert ended(tmp_path, "peft-vision: said\n").fault(0) is None


def test_a_log_that_cannot_be_written_is_said_in_a_line(tmp_path, capsys):
    (tmp_path / "taken").touch()
    assert Job.of(["seed=0"], tmp_path / "taken" / "run.log")() == 1
    assert capsys.readouterr().err.startswith(f"peft-vision: cannot write {tmp_path}/taken/run.log: ")


def test_only_the_end_of_a_long_log_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_READ_BYTES", 20)
    assert str(ended(tmp_path, f"peft-vision: early\n{'x' * 100}\nlast words\n").fault(3)) == "last words"
