"""Progress on a real pseudo-terminal and in a log."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time

import pytest

from peft_vision.core import progress
from peft_vision.core.progress import Progress, track
from test_ranks import OF_TORCHRUN

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


@pytest.fixture
def clock(monkeypatch):
    """A list with the time in it, so that seconds pass at once."""
    seconds = [100.0]
    monkeypatch.setattr(progress, "monotonic", lambda: seconds[0])
    return seconds


def on_terminal(script: str, *, seconds: float = 20, interrupt_when: str | None = None) -> tuple[str, int]:
    """What `script` writes to a terminal of 100 columns, and its exit code."""
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=follower, stdout=follower, stderr=follower, env=environment
    )
    os.close(follower)
    written, end = b"", time.monotonic() + seconds
    while time.monotonic() < end:
        if not select.select([leader], [], [], 0.1)[0]:
            continue
        try:
            written += os.read(leader, 65536)
        except OSError:  # Linux says so when the last writer has closed the terminal
            break
        if interrupt_when and interrupt_when.encode() in written:
            process.send_signal(signal.SIGINT)
            interrupt_when = None
    os.close(leader)
    if time.monotonic() >= end:
        process.kill()
    return written.decode(), process.wait(timeout=5)


def test_a_log_gets_a_line_after_a_second_and_then_every_ten(clock, capsys):
    for _ in track(range(25), label="features", total=25, unit="images"):
        clock[0] += 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "features 1/25 (4 %), 1 images/s, 0:24 left",
        "features 11/25 (44 %), 1 images/s, 0:14 left",
        "features 21/25 (84 %), 1 images/s, 0:04 left",
    ]


def test_quick_work_says_nothing(clock, capsys):
    assert list(track("abc", label="quick", total=3)) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""


def test_a_batch_counts_for_its_images_and_shows_its_loss(clock, capsys):
    with Progress(label="train", total=5000, unit="images") as bar:
        bar.advance(600, loss="0.90")
        clock[0] += 4
        bar.advance(600, loss="0.41")
    assert capsys.readouterr().err == "train 1200/5000 (24 %), 300 images/s, 0:13 left, loss 0.41\n"


def test_resumed_work_does_not_count_for_the_rate(clock, capsys):
    with Progress(label="epochs", total=100, unit="epochs", done=90) as bar:
        clock[0] += 20
        bar.advance()
    assert capsys.readouterr().err == "epochs 91/100 (91 %), 0.05 epochs/s, 3:00 left\n"


def test_the_rate_forgets_a_slow_start(clock, capsys):
    with Progress(label="train", total=100_000, unit="images") as bar:
        clock[0] += 500
        bar.advance()
        for _ in range(1000):
            clock[0] += 0.1
            bar.advance(10)
    assert "100 images/s" in capsys.readouterr().err.splitlines()[-1]


def test_nested_bars_share_a_line_in_a_log(clock, capsys):
    with Progress(label="epochs", total=2, unit="epochs") as epochs:
        for _ in range(2):
            for _ in track(range(4), label="batches", total=4):
                clock[0] += 3
            epochs.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "epochs 0/2 (0 %) | batches 1/4 (25 %), 0.33 it/s, 0:09 left",
        "epochs 1/2 (50 %), 0.083 epochs/s, 0:09 left | batches 1/4 (25 %), 0.33 it/s, 0:09 left",
    ]


def test_leaving_a_loop_early_closes_its_bar(clock, capsys):
    for _ in track(range(3), label="left", total=3):
        break
    clock[0] += 5
    with Progress(label="next", total=2) as bar:
        clock[0] += 5
        bar.advance()
    assert capsys.readouterr().err.startswith("next 1/2")


def test_the_time_left_goes_on_falling_inside_a_slow_item(clock, capsys):
    with Progress(label="epochs", total=3, unit="epochs") as epochs:
        clock[0] += 60
        epochs.advance()
        with Progress(label="batches", total=9) as batches:
            clock[0] += 50
            batches.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "epochs 1/3 (33 %), 0.017 epochs/s, 2:00 left"
    assert lines[1].startswith("epochs 1/3 (33 %), 0.017 epochs/s, 1:10 left | batches 1/9")


def test_nothing_to_do_is_no_division_by_zero(clock, capsys):
    with Progress(label="empty", total=0) as bar:
        clock[0] += 5
        bar.advance(0)
    assert capsys.readouterr().err == "empty 0/0 (0 %)\n"


def test_color_forced_on_a_log_adds_no_escape_codes(clock, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    for _ in track(range(3), label="log", total=3):
        clock[0] += 2
    assert "\x1b" not in capsys.readouterr().err


NESTED = """
import time
from peft_vision.core.progress import Progress, track
with Progress(label="epochs", total=3, unit="epochs") as epochs:
    for epoch in range(3):
        for batch in track(range(8), label="batches", total=8, unit="images"):
            time.sleep(0.1)
        print(f"epoch {epoch} done")
        epochs.advance(loss="0.41")
import threading
print("threads", threading.active_count())
"""


def test_nested_bars_on_a_terminal_leave_only_what_was_printed():
    written, code = on_terminal(NESTED)
    assert code == 0
    assert written.count(HIDE_CURSOR) == written.count(SHOW_CURSOR) == 1
    assert re.search(r"epochs .*1/3", written)
    assert re.search(r"batches .*4/8.* \d+(\.\d)? images/s, 0:0\d left", written)
    assert "loss 0.41" in written
    assert "threads 1" in written
    assert screen(written) == ["epoch 0 done", "epoch 1 done", "epoch 2 done", "threads 1"]


def test_quick_work_never_touches_the_terminal():
    written, code = on_terminal("from peft_vision.core.progress import track\nlist(track('abc', label='a', total=3))")
    assert (written, code) == ("", 0)


def test_ctrl_c_leaves_a_clean_terminal():
    script = """
import time
from peft_vision.core.progress import track
try:
    for _ in track(range(1000), label="long", total=1000):
        time.sleep(0.1)
except KeyboardInterrupt:
    print("stopped")
"""
    written, code = on_terminal(script, interrupt_when="left")
    assert code == 0
    assert written.rfind(SHOW_CURSOR) > written.rfind(HIDE_CURSOR) >= 0
    assert screen(written) == ["stopped"]


def test_output_redirected_to_a_file_keeps_what_is_printed(tmp_path):
    script = f"""
import sys, time
from peft_vision.core.progress import track
sys.stdout = open({str(tmp_path / "out")!r}, "w")
for i in track(range(13), label="long", total=13):
    time.sleep(0.1)
    print("row", i)
sys.stdout.close()
"""
    written, code = on_terminal(script)
    assert code == 0
    assert "long" in written
    assert "row" not in written
    assert (tmp_path / "out").read_text().splitlines() == [f"row {i}" for i in range(13)]


def test_a_dumb_terminal_gets_lines():
    script = """
import os, time
os.environ["TERM"] = "dumb"
from peft_vision.core.progress import track
for i in track(range(12), label="long", total=12):
    time.sleep(0.1)
"""
    written, _ = on_terminal(script)
    assert "\x1b" not in written
    assert written.startswith("long ")


def test_no_thread_is_alive_after_or_during(clock, capsys):
    before = threading.active_count()
    for _ in track(range(3), label="log", total=3):
        clock[0] += 2
        assert threading.active_count() == before


def screen(written: str) -> list[str]:
    """The lines a person still sees at the end: a terminal that knows what rich uses."""
    rows, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        match part[-1]:
            case "\n":
                row, rows = row + 1, [*rows, ""] if row + 1 == len(rows) else rows
            case "\r":
                column = 0
            case "A" if part[0] == "\x1b":
                row -= int(part[2:-1] or 1)
            case "K" if part[0] == "\x1b":
                assert part == "\x1b[2K", part
                rows[row] = ""
            case _ if part[0] == "\x1b":
                assert part[-1] in "mhl", part
            case _:
                rows[row] = rows[row][:column].ljust(column) + part + rows[row][column + len(part) :]
                column += len(part)
    return [text.rstrip() for text in rows if text.strip()]


def test_of_several_processes_only_the_first_speaks(clock, capsys, monkeypatch):
    for name, value in OF_TORCHRUN.items():
        monkeypatch.setenv(name, value)
    for _ in track(range(5), label="decode", total=5):
        clock[0] += 20
    assert capsys.readouterr().err == ""
