"""A function in a process of its own, which may fail or die there."""

import os
import signal
import threading
import time
from multiprocessing import active_children
from pathlib import Path

import pytest

import preloaded
from command import start, wait_for
from peft_vision.core.stopping import Stopped, at_once
from peft_vision.costs.measure import Failure, apart
from preloaded import SOURCES, measured_in_forks

PYTHONPATH = os.pathsep.join([str(Path(preloaded.__file__).parent), SOURCES])


@pytest.fixture
def forked():
    with measured_in_forks():
        yield


def test_what_a_function_returns_comes_back():
    assert apart(divmod, 7, 2) == (3, 1)


@pytest.mark.usefixtures("forked")
def test_it_has_a_process_of_its_own():
    assert apart(os.getpid) != os.getpid()


@pytest.mark.usefixtures("forked")
def test_an_exception_is_a_line_and_a_traceback():
    failure = apart(divmod, 1, 0)
    assert failure.reason.startswith("ZeroDivisionError: ")
    assert failure.traceback.startswith("Traceback")


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    ("function", "number", "said"),
    [
        (os._exit, 3, "its process ended with exit code 3"),
        (signal.raise_signal, signal.SIGTERM, "its process ended by signal 15"),
        (signal.raise_signal, signal.SIGKILL, "its process was killed, as the system does when memory runs out"),
    ],
)
def test_a_process_that_dies_is_a_line(function, number, said):
    assert apart(function, number) == Failure(said, "")


@pytest.mark.usefixtures("forked")
def test_sigterm_ends_both_processes():
    def ask() -> None:
        while not active_children():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ask).start()
    began = time.monotonic()
    with pytest.raises(Stopped), at_once():
        apart(time.sleep, 100)
    assert time.monotonic() - began < 5
    assert active_children() == []


MEASURED = """
import os, time
from pathlib import Path
Path("pid").write_text(f"{os.getpid()}\\n")
time.sleep(100)
"""
KILLED = f"""
from peft_vision.costs.measure import apart
from preloaded import measured_in_forks
with measured_in_forks():
    apart(exec, {MEASURED!r})
"""


def test_it_ends_with_a_process_that_is_killed(tmp_path):
    parent = start(cwd=tmp_path, program=("-c", KILLED), PYTHONPATH=PYTHONPATH)
    file = tmp_path / "pid"
    wait_for(lambda: file.exists() and file.read_text().endswith("\n"), parent)
    parent.kill()
    parent.communicate(timeout=20)  # until both have closed what they write to
    deadline = time.monotonic() + 20
    while Path(f"/proc/{file.read_text().strip()}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{file.read_text().strip()}").exists()
