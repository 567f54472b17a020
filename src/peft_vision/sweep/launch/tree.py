"""This module runs a command that may fork freely, such as a run behind srun or a shell, and ends it as a whole."""

import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import Popen

from peft_vision.core.stopping import adopt_orphans, die_with_parent, follow_parent, lifeline

_GRACE_SECONDS = 7.0  # for the run to end by itself after SIGTERM
_MISSES = 10  # looks at the processes: a process shows no command for a moment while it executes another
_AGAIN_SECONDS = 0.02  # until processes are looked for again, since some may have been forked meanwhile


def carried_out(prefix: Sequence[str], run: Sequence[str]) -> int:
    """Run the command `run` with `prefix` in front of it, and return the exit code, negative for a signal.

    None of their processes on this machine is left when this returns, or once this process is gone. SIGTERM and the end
    of the parent ask the run to end by itself; what is left after a grace period is killed. This must be called in the
    main thread of a process that does nothing else.
    """
    adopt_orphans()
    with lifeline() as (held, variables):
        process = Popen(
            [*prefix, *run],
            env={**os.environ, **variables},
            pass_fds=[held],
            process_group=0,  # so that Ctrl-C reaches the sweep alone
            preexec_fn=die_with_parent,
        )
        signal.signal(signal.SIGALRM, lambda *_: _kill(process))
        signal.signal(signal.SIGTERM, lambda *_: _tell(process, run))
        follow_parent(then=lambda: os.kill(os.getpid(), signal.SIGTERM))
        return _followed(process, run)


def _followed(process: Popen, run: Sequence[str]) -> int:
    """Return the exit code of `process`, or if that is 0 the one of a run that outlived it. Kill whatever else stays
    behind."""
    ended: dict[int, int] = {}
    runs: set[int] = set()
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, 0)
            ended[pid] = os.waitstatus_to_exitcode(status)
            if process.pid in ended:
                alive = set(_begun_runs(run))
                runs |= alive
                if not alive:
                    _kill_within(_AGAIN_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, 0)
    process.returncode = ended[process.pid]
    return next((ended[pid] for pid in (process.pid, *runs) if ended.get(pid)), 0)


def _tell(process: Popen, run: Sequence[str]) -> None:
    """Send SIGTERM to the run, not to the prefix, which ends by itself after it; or to `process` if the run is on
    another machine. What is left after the grace period is killed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would make the run end at once
    _kill_within(_GRACE_SECONDS)
    for pid in list(_runs(run)) or [process.pid]:
        _send(pid, signal.SIGTERM)


def _kill_within(seconds: float) -> None:
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _kill(process: Popen) -> None:
    """Kill all descendants of this process, or the process group where the system does not list them, and do so again
    until there are none: after each time, not at intervals, in which a slow machine cannot list its processes."""
    children = _children()
    for pid in _below(os.getpid(), children):
        _send(pid, signal.SIGKILL)
    if not children:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    _kill_within(_AGAIN_SECONDS)


def _send(pid: int, signum: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signum)


def _begun_runs(run: Sequence[str]) -> list[int]:
    """Return the processes of `_runs`, once no fork of the prefix is left that could still become the run: a shell may
    put the run in the background and end before that fork executes it. Wait for `_GRACE_SECONDS` at most."""
    deadline = time.monotonic() + _GRACE_SECONDS
    misses = 0
    while not (alive := list(_runs(run))) and misses < _MISSES and time.monotonic() < deadline:
        misses = 0 if _is_about_to_run(run) else misses + 1
        time.sleep(_AGAIN_SECONDS)
    return alive


def _is_about_to_run(run: Sequence[str]) -> bool:
    """Return whether a descendant without children has a command that ends with the run, which it may yet execute."""
    children = _children()
    return any(
        not children.get(pid) and _read(Path(f"/proc/{pid}/cmdline")).endswith(_command_line(run))
        for pid in _below(os.getpid(), children)
    )


def _runs(run: Sequence[str]) -> Iterator[int]:
    """Return the descendants of this process that are the run, without those that the run has forked itself."""
    return _topmost(os.getpid(), _children(), _command_line(run))


def _command_line(command: Sequence[str]) -> bytes:
    """Return the command as /proc shows it: each word ends in a zero byte."""
    return b"".join(os.fsencode(word) + b"\0" for word in command)


def _topmost(pid: int, children: Mapping[int, Sequence[int]], wanted: bytes) -> Iterator[int]:
    for child in children.get(pid, ()):
        if _read(Path(f"/proc/{child}/cmdline")) == wanted:
            yield child
        else:
            yield from _topmost(child, children, wanted)


def _below(pid: int, children: Mapping[int, Sequence[int]]) -> Iterator[int]:
    for child in children.get(pid, ()):
        yield child
        yield from _below(child, children)


def _children() -> dict[int, list[int]]:
    """Return all processes of this machine by their parent; none where the system has no /proc."""
    children = defaultdict(list)
    for path in Path("/proc").glob("[0-9]*/stat"):
        pid, _, facts = _read(path).rpartition(b")")  # the name, in brackets, may itself contain brackets
        if facts:
            children[int(facts.split()[1])].append(int(pid.split()[0]))
    return children


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has just ended
        return b""
