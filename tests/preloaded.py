"""Processes in which the command's imports, some five seconds of them, are done before it starts.

A server has imported them once for all tests of a worker, and forks. The command has a process of its own, with
arguments, folder, variables, pipes, signals and an exit code; only the start of Python and what `composed_once.py`
keeps are not repeated, neither for it nor for the server that forks the runs of its sweep, so that a test of that needs
a fresh process. Linux only, as the sockets are that keep messages apart.
"""

import atexit
import fcntl
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from multiprocessing import get_context, util
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import NoReturn
from unittest import mock

from hydra import compose, initialize_config_dir

import peft_vision
from composed_once import composed_once
from peft_vision.core.config import CONFIG_DIR

SOURCES = str(Path(peft_vision.__file__).parents[1])
IMPORTED = (
    *("torch", "torchvision", "timm", "wandb", "hydra"),
    *("peft_vision.core.composition", "peft_vision.task.train", "peft_vision.sweep.points"),
    *("sklearn.metrics", "scipy.special", "peft_vision.report.page", "peft_vision.sweep.search.search"),
)


class Forked:
    """A process that the server has forked, with the methods of subprocess.Popen that tests use."""

    def __init__(self, words: list[str], cwd: Path, variables: dict[str, str]) -> None:
        """Run what Python would with `words`: -m, a module and arguments, or -c, code and arguments."""
        (out, said), (err, complained) = os.pipe(), os.pipe()
        self._state, told = socket.socketpair(type=socket.SOCK_SEQPACKET)
        asked = {"words": words, "cwd": str(cwd), "variables": variables}
        socket.send_fds(server(), [json.dumps(asked).encode()], [said, complained, told.fileno()])
        for end in (said, complained):
            os.close(end)
        told.close()
        self.stdout, self.stderr = map(os.fdopen, (out, err))
        self.args, self.returncode = words, None
        self.pid = int(self._state.recv(16))

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        if self._ended(timeout) is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            self._state.settimeout(timeout)
            try:
                self.returncode = int(self._state.recv(16))
            except (TimeoutError, BlockingIOError):
                return None
            self._state.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end and return what was printed; TimeoutExpired leaves the process at work."""
        deadline = None if timeout is None else time.monotonic() + timeout
        printed: dict[str, str] = {}

        def read(name: str) -> None:
            with getattr(self, name) as pipe:
                printed[name] = pipe.read()

        readers = [threading.Thread(target=read, args=(name,), daemon=True) for name in ("stdout", "stderr")]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(None if deadline is None else max(0, deadline - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout)
        self.wait(None if deadline is None else max(0.1, deadline - time.monotonic()))
        return printed["stdout"], printed["stderr"]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@contextmanager
def measured_in_forks() -> Iterator[None]:
    """In the block the processes of `peft_vision.costs.measure.apart` are forked, too, and not spawned."""
    forking = get_context("forkserver")
    forking.set_forkserver_preload([*IMPORTED, "peft_vision.costs.measure"])
    with mock.patch("peft_vision.costs.measure.multiprocessing", SimpleNamespace(get_context=lambda _: forking)):
        yield


@cache
def server() -> socket.socket:
    """The end of a channel to the server, which ends once the channel is closed."""
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    home = TemporaryDirectory()  # some libraries look for it when they are imported
    process = subprocess.Popen(
        [sys.executable, __file__, str(theirs.fileno())],
        env={**os.environ, "PYTHONPATH": SOURCES, "OMP_NUM_THREADS": "1", "HOME": home.name},
        pass_fds=[theirs.fileno()],
        stdout=subprocess.DEVNULL,
    )
    theirs.close()

    def end() -> None:
        ours.close()
        process.terminate()
        process.wait()
        home.cleanup()

    atexit.register(end)
    return ours


def serve(channel: socket.socket) -> dict:
    """Import, then fork a process for each request; return the request in that process, and exit in this one when the
    channel is closed."""
    for module in IMPORTED:
        import_module(module)
    composed_once().__enter__()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        for option in ("basic", "pool"):
            compose(
                "config", ["experiment=smoke", "method=linear", f"hydra/launcher={option}"], return_hydra_config=True
            )
    assert len(os.listdir("/proc/self/task")) == 1  # a process of several threads may not be forked
    while True:
        message, files, _, _ = socket.recv_fds(channel, 1 << 20, 3)
        if not message:
            os._exit(0)
        keeper = os.fork()
        if not keeper:
            channel.close()
            return json.loads(message) | {"files": files}
        for file in files:
            os.close(file)
        reap()


def reap() -> None:
    """Forget the keepers that have ended."""
    while True:
        try:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                return
        except ChildProcessError:
            return


def keep(asked: dict) -> None:
    """Return in a new process that is as the request wants it; this one tells its id and how it ends, and exits."""
    out, err, state = asked["files"]
    told = socket.socket(fileno=state)
    pid = os.fork()
    if pid:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for file in (out, err):
            os.close(file)
        told.send(b"%d" % pid)
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        try:
            told.send(b"%d" % ended)
        finally:
            os._exit(0)
    told.close()
    os.dup2(out, 1)
    os.dup2(err, 2)
    for file in (out, err):
        os.close(file)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["variables"])
    sys.path[:0] = [folder for folder in os.environ["PYTHONPATH"].split(os.pathsep) if folder not in sys.path]


def fork_in_time() -> None:
    """Fork a process that becomes the server of multiprocessing once this one starts it, in place of one that imports
    for itself: with its code, files, variables and folder. It ends with this process if it is never asked."""
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    spawned, pid = util.spawnv_passfds, os.fork()
    if not pid:
        ours.close()
        become(theirs)
    theirs.close()

    def spawn(path: bytes, words: list, files: list[int]) -> int:
        if "multiprocessing.forkserver" not in str(words[-1]):
            return spawned(path, words, files)
        util.spawnv_passfds = spawned
        variables, code = dict(os.environ), os.fsdecode(words[-1])
        asked = {"code": code, "places": list(files), "variables": variables, "cwd": os.getcwd()}
        socket.send_fds(ours, [json.dumps(asked).encode()], files)
        return pid

    util.spawnv_passfds = spawn


def become(channel: socket.socket) -> NoReturn:
    """Wait for code and run it, with the files that it names by their numbers."""
    message, files, _, _ = socket.recv_fds(channel, 1 << 20, 16)
    if message:
        asked = json.loads(message)
        apart = [fcntl.fcntl(file, fcntl.F_DUPFD, 500) for file in files]  # beyond all numbers that are asked for
        os.closerange(3, 500)
        for file, place in zip(apart, asked["places"], strict=True):
            os.dup2(file, place)
            os.close(file)
        os.chdir(asked["cwd"])
        os.environ.clear()
        os.environ.update(asked["variables"])
        with suppress(SystemExit):
            exec(asked["code"], {"__name__": "__main__"})
    os._exit(0)


def main() -> None:
    asked = serve(socket.socket(fileno=int(sys.argv[1])))
    keep(asked)
    fork_in_time()
    flag, named, *arguments = asked["words"]
    if flag == "-m":
        sys.argv = [named, *arguments]
        runpy.run_module(named, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [flag, *arguments]
        exec(named, {"__name__": "__main__"})


if __name__ == "__main__":
    main()
