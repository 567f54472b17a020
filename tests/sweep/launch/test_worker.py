"""Runs in processes that a server forks, which may be killed itself."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch
from test_tree import session, wait_until

import peft_vision
from peft_vision.core.config import ConfigError
from peft_vision.sweep.launch import pool
from peft_vision.sweep.launch.pool import PoolLauncher
from peft_vision.sweep.launch.process_launcher import Job

HERE = Path(__file__).parent


def noting(folder: Path, acts: Sequence[str]) -> list[Job]:
    """Jobs of noting tasks."""
    options = folder / "mine" / "task"
    options.mkdir(parents=True)
    (options / "note.yaml").write_text("_target_: noting_task.Note\nact: note\n")
    words = ("--config-dir", str(folder / "mine"), "task=note", "hydra.mode=RUN")
    return [Job.of([*words, f"task.act={act}"], folder / f"{act}.log") for act in acts]


@pytest.mark.slow
def test_runs_go_on_without_the_server_that_forked_them(tmp_path, monkeypatch):
    """And what became of each is known."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(HERE)
    jobs = noting(tmp_path, ["wait1", "wait2"])
    launcher = PoolLauncher(jobs=2, devices=None, threads=None, prefix=None)

    looked = set()
    exit_code = pool.Worker.exit_code

    def looking(self: pool.Worker) -> int | None:
        code = exit_code(self)
        looked.add(self.slot)
        return code

    monkeypatch.setattr(pool.Worker, "exit_code", looking)

    def strike() -> None:
        wait_until(lambda: len(list(tmp_path.glob("wait?.json"))) == 2, seconds=100)
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
        wait_until(lambda: looked == {0, 1})
        os.kill(json.loads((tmp_path / "wait2.json").read_text())["pid"], signal.SIGKILL)
        (tmp_path / "go").touch()

    thread = threading.Thread(target=strike)
    thread.start()
    codes = dict(launcher.carry_out(jobs, lambda number: True))
    thread.join()
    assert codes == {0: 0, 1: 1}
    assert str(jobs[1].fault(1)) == "killed, and so was the process that forks the runs of a sweep"


def test_a_server_that_dies_at_each_start_is_named(monkeypatch, tmp_path):
    starts = []

    def start(process):
        starts.append(process)
        raise EOFError

    monkeypatch.setattr("multiprocessing.context.ForkServerProcess.start", start)
    with pytest.raises(ConfigError, match=r"^hydra.launcher: no process for a run: the one that forks them is killed$"):
        pool.Worker(Job.of(["seed=0"], tmp_path / "run.log"), 0, None, None, 1, ())
    assert len(starts) == 3


@pytest.mark.parametrize(
    ("threads", "at_once", "own", "expected"),
    [
        (None, 4, False, 2),
        (None, 1, False, 8),
        (None, 16, False, 1),
        (None, 4, True, 8),
        (3, 4, False, 3),
        (3, 4, True, 3),
    ],
)
def test_threads_are_divided_unless_somebody_chose_them(threads, at_once, own, expected, monkeypatch):
    set_to = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    (monkeypatch.setenv if own else lambda name, _: monkeypatch.delenv(name, raising=False))("OMP_NUM_THREADS", "8")
    pool._share_threads(threads, at_once)
    assert set_to == [expected]


SWEEP = """
from pathlib import Path
from peft_vision.sweep.launch import pool
from peft_vision.sweep.launch.process_launcher import Job
if __name__ == "__main__":
    pool._IMPORTED[1:] = ["slow"]
    pool.Worker(Job.of(["seed=0"], Path("run.log")), 0, None, None, 1, ())
"""


def test_the_server_ends_with_a_sweep_that_is_killed_while_it_imports(tmp_path):
    (tmp_path / "sweep.py").write_text(SWEEP)
    (tmp_path / "slow.py").write_text("import time; open('importing', 'x'); time.sleep(1000)")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(peft_vision.__file__).parents[1])]),
    }
    sweep = subprocess.Popen([sys.executable, "sweep.py"], cwd=tmp_path, env=environment, start_new_session=True)
    wait_until((tmp_path / "importing").exists)
    sweep.kill()
    sweep.wait()
    wait_until(lambda: session(sweep.pid) == [])
