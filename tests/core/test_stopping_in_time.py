"""SIGTERM ends a process within ten seconds, whatever it is in. Seconds are fractions of one here."""

import hashlib
import os
import signal
import threading
import time
from contextlib import ExitStack, nullcontext

import pytest

from peft_vision.core import stopping
from peft_vision.core.stopping import Stopped, at_once, when_ready

SHORT = 0.05


@pytest.fixture
def ended(monkeypatch) -> list[tuple[int, float]]:
    """The exit codes with which the process would have ended, and when."""
    ended = []
    monkeypatch.setattr(stopping, "LIMIT_SECONDS", SHORT)
    monkeypatch.setattr(os, "_exit", lambda code: ended.append((code, time.monotonic())))
    return ended


def ask(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def test_the_seconds_add_up_to_less_than_ten():
    assert stopping.PATIENCE_SECONDS < stopping.LIMIT_SECONDS < 9


def test_a_training_whose_epoch_is_long_stops_at_once_after_a_while(monkeypatch):
    monkeypatch.setattr(stopping, "PATIENCE_SECONDS", SHORT)
    monkeypatch.setattr(stopping, "_TOGETHER_SECONDS", 0.0)
    began = time.monotonic()
    with pytest.raises(Stopped, match="SIGTERM"), at_once(), when_ready() as asked_by:  # noqa: PT012
        ask()
        assert asked_by() == signal.SIGTERM
        time.sleep(5)
    assert SHORT <= time.monotonic() - began < 4


def test_slurms_warning_leaves_an_epoch_its_time(monkeypatch):
    monkeypatch.setattr(stopping, "PATIENCE_SECONDS", SHORT)
    with pytest.raises(Stopped, match="SIGUSR2"), at_once(), when_ready() as asked_by:  # noqa: PT012
        ask(signal.SIGUSR2)
        time.sleep(4 * SHORT)
        assert asked_by() == signal.SIGUSR2


def test_a_training_that_ends_in_time_is_asked_no_more(monkeypatch):
    monkeypatch.setattr(stopping, "PATIENCE_SECONDS", SHORT)
    with at_once():
        with pytest.raises(Stopped), when_ready():
            ask()
        time.sleep(4 * SHORT)


def test_sigterm_to_a_group_and_by_a_parent_is_one():
    with pytest.raises(Stopped), at_once(), when_ready() as asked_by:  # noqa: PT012
        ask()
        ask()
        assert asked_by() == signal.SIGTERM


def test_sigterm_again_later_is_another(monkeypatch):
    monkeypatch.setattr(stopping, "_TOGETHER_SECONDS", 0.0)
    reached = []
    with pytest.raises(Stopped), at_once(), when_ready():  # noqa: PT012
        ask()
        ask()
        reached.append(True)
    assert reached == []


def test_a_call_that_lets_no_signal_through_is_ended(ended, capfd):
    threading.Timer(SHORT, ask).start()
    with pytest.raises(Stopped), at_once():
        hashlib.pbkdf2_hmac("sha256", b"", b"", 1_500_000)  # some half a second, in which Python hears nothing
    returned = time.monotonic()  # where the handler raised
    ((code, when),) = ended
    assert code == 128 + signal.SIGTERM
    assert when < returned
    assert capfd.readouterr().err == "peft-vision: stopped; the same command goes on from the last saved epoch\n"


def test_clearing_up_for_long_is_ended(ended):
    with pytest.raises(Stopped), at_once(), ExitStack() as held:  # noqa: PT012
        held.callback(time.sleep, 4 * SHORT)
        ask()
    assert [code for code, _ in ended] == [143]


def test_what_ends_in_time_is_left_alone(ended):
    with pytest.raises(Stopped), at_once():
        ask()
    time.sleep(2 * SHORT)
    assert ended == []


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGCHLD])
def test_other_signals_set_no_limit(number, ended):
    before = signal.signal(signal.SIGCHLD, lambda *_: None)
    with pytest.raises(Stopped) if number == signal.SIGUSR2 else nullcontext(), at_once(), ExitStack() as held:
        held.callback(time.sleep, 3 * SHORT)
        ask(number)
    signal.signal(signal.SIGCHLD, before)
    assert ended == []


def test_the_wakeup_of_another_library_is_put_back():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer)
    with at_once():
        pass
    assert signal.set_wakeup_fd(before) == writer
    os.close(reader)
    os.close(writer)
