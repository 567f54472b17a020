"""A function in a process of its own, which may fail or die there."""

import os
import signal

import pytest

from peft_vision.bench.process import Failure, apart


def test_what_a_function_returns_comes_back():
    assert apart(divmod, 7, 2) == (3, 1)
    assert apart(os.getpid) != os.getpid()


def test_an_exception_is_a_line_and_a_traceback():
    failure = apart(divmod, 1, 0)
    assert failure.reason.startswith("ZeroDivisionError: ")
    assert failure.traceback.startswith("Traceback")


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
