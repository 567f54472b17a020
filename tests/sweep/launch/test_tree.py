"""A run behind a prefix ends as a whole, whatever the prefix does and whoever is killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

import peft_vision
from peft_vision.sweep.launch import tree

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for its processes")
PREFIXES = {
    "nice": ["nice"],
    "env": ["env", "A=b"],
    "a shell that execs": ["sh", "-c", 'exec "$@"', "x"],
    "a shell that forks": ["sh", "-c", '"$@"; exit $?', "x"],
    "a shell that goes": ["sh", "-c", '"$@" &', "x"],
    "two that fork": ["sh", "-c", '"$@"; exit $?', "x", "timeout", "100"],
}
HOLDS = "from peft_vision.core.stopping import hold; hold()\n"
SLEEPS = f"{HOLDS}import time; open('at-work', 'x'); time.sleep(1000)"
SAVES = f"""{HOLDS}
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (open('saved', 'x'), sys.exit(5)))
open('at-work', 'x'); time.sleep(1000)
"""
IGNORES = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{SLEEPS}"


def session(pid: int) -> list[str]:
    """What is left of it."""
    listed = subprocess.run(["ps", "-s", str(pid), "-o", "stat=,args="], capture_output=True, text=True).stdout
    return [line for line in listed.splitlines() if not line.startswith("Z")]


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def carried_out(
    prefix: Sequence[str], program: str, folder: Path, grace: float = 20
) -> Iterator[tuple[subprocess.Popen, int]]:
    """A sweep, as it were, in a session of its own, and the id of its process for the run."""
    command = [sys.executable, Path(__file__).with_name("supervised.py"), str(grace), *prefix, "--"]
    sweep = subprocess.Popen(
        [*command, sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(peft_vision.__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield sweep, int(sweep.stdout.readline())
    finally:
        for line in subprocess.run(
            ["ps", "-s", str(sweep.pid), "-o", "pid="], capture_output=True, text=True
        ).stdout.split():
            os.kill(int(line), signal.SIGKILL)
        sweep.communicate()


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
def test_nothing_is_left_of_a_run_whose_process_is_killed(prefix, tmp_path):
    with carried_out(prefix, SLEEPS, tmp_path) as (sweep, process_id):
        wait_until((tmp_path / "at-work").exists)
        os.kill(process_id, signal.SIGKILL)
        sweep.wait(timeout=120)
        wait_until(lambda: session(sweep.pid) == [])


def test_nor_of_one_without_a_handler_whose_sweep_is_killed(tmp_path):
    """Of runs that save when told to end, the next test asks it."""
    with carried_out(PREFIXES["a shell that forks"], SLEEPS, tmp_path) as (sweep, _):
        wait_until((tmp_path / "at-work").exists)
        sweep.kill()
        sweep.wait(timeout=120)
        wait_until(lambda: session(sweep.pid) == [])


@pytest.mark.parametrize("whom", ["the sweep is killed", "its process is told to end"])
@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
def test_the_run_itself_is_told_to_end_once(prefix, whom, tmp_path):
    with carried_out(prefix, SAVES, tmp_path) as (sweep, process_id):
        wait_until((tmp_path / "at-work").exists)
        if whom == "the sweep is killed":
            sweep.kill()
        else:
            os.kill(process_id, signal.SIGTERM)
            assert sweep.communicate(timeout=120)[0] == "exit code 5\n"
        wait_until(lambda: session(sweep.pid) == [])
        assert (tmp_path / "saved").exists()


@pytest.mark.parametrize("prefix", [PREFIXES["nice"], PREFIXES["a shell that forks"]], ids=["nice", "sh"])
def test_a_run_that_does_not_end_is_killed(prefix, tmp_path):
    with carried_out(prefix, IGNORES, tmp_path, grace=0.2) as (sweep, process_id):
        wait_until((tmp_path / "at-work").exists)
        os.kill(process_id, signal.SIGTERM)
        assert sweep.communicate(timeout=120)[0] in ("exit code -9\n", "exit code 137\n")
        assert session(sweep.pid) == []


def test_a_look_at_the_processes_that_takes_long_is_not_interrupted_by_the_next(monkeypatch):
    """Looks within looks would come to an end where Python allows no deeper calls, and the exit code be lost."""
    looks, within = [], []

    def slow() -> dict[int, list[int]]:
        within.append(looks)
        looks.append(len(within))
        if len(within) > 1:
            signal.setitimer(signal.ITIMER_REAL, 0)
        time.sleep(3 * tree._AGAIN_SECONDS)
        within.pop()
        return {0: [0]}  # nothing of ours

    monkeypatch.setattr(tree, "_children", slow)
    before = signal.signal(signal.SIGALRM, lambda *_: tree._kill(SimpleNamespace(pid=0)))
    try:
        tree._kill_within(0.001)
        wait_until(lambda: len(looks) > 1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert set(looks) == {1}


def test_a_run_that_its_prefix_has_forked_and_not_yet_executed_is_waited_for(tmp_path):
    forks = "import os, sys, time; os.fork() and os._exit(0); time.sleep(1); os.execvp(sys.argv[1], sys.argv[1:])"
    with carried_out([sys.executable, "-c", forks], "import time; time.sleep(1); raise SystemExit(5)", tmp_path) as (
        sweep,
        _,
    ):
        assert sweep.communicate(timeout=120)[0] == "exit code 5\n"


@pytest.mark.parametrize("code", [0, 3])
def test_what_a_prefix_leaves_behind_is_killed_and_the_exit_code_is_the_runs(code, tmp_path):
    leaves = ["sh", "-c", 'sleep 1000 & (sleep 1000 &) ; "$@"', "x"]
    with carried_out(leaves, f"raise SystemExit({code})", tmp_path) as (sweep, _):
        assert sweep.communicate(timeout=120)[0] == f"exit code {code}\n"
        assert session(sweep.pid) == []


def test_what_a_run_was_killed_by_is_known(tmp_path):
    killed = "import os, time; time.sleep(0.3); os.kill(os.getpid(), 9)"
    for prefix, code in ((["nice"], -9), (PREFIXES["a shell that goes"], -9), (PREFIXES["a shell that forks"], 137)):
        with carried_out(prefix, killed, tmp_path) as (sweep, _):
            assert sweep.communicate(timeout=120)[0] == f"exit code {code}\n"
