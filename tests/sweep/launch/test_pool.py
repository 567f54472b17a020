"""Runs of a sweep in processes of their own."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from halting import CHOSEN, PYTHONPATH, halted, write_option

from command import Outcome, command, results, start, wait_for
from peft_vision.sweep.launch.pool import PoolLauncher
from peft_vision.sweep.launch.process_launcher import Job

pytestmark = pytest.mark.slow
THREE = ("-m", *CHOSEN, "experiment=smoke", "method=linear", "trainer.epochs=5", "trainer.save_seconds=0", "seed=0,1,2")
THREE = (*THREE, "hydra.launcher.jobs=2")


def sweep(folder: Path, acts: str, *arguments: str) -> Outcome:
    """Of noting tasks."""
    options = folder / "mine" / "task"
    options.mkdir(parents=True, exist_ok=True)
    (options / "note.yaml").write_text("_target_: noting_task.Note\nact: note\n")
    given = ("-m", "--config-dir", "mine", "task=note", f"task.act={acts}", *arguments)
    return command(*given, cwd=folder, PYTHONPATH=PYTHONPATH)


def notes(folder: Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[Path, Outcome]:
    folder = tmp_path_factory.mktemp("swept")
    acts = "note1,raise,exit,kill,refuse,busy,note2,note3"
    return folder, sweep(folder, acts, "hydra.launcher.devices=[5,7]", "hydra.launcher.threads=3")


def test_every_run_has_a_process_of_its_own_that_knows_nothing_of_another(swept):
    found = notes(swept[0])
    assert len(found) == len({facts["pid"] for facts in found.values()}) == 8
    assert {facts["dtype"] for facts in found.values()} == {"torch.float32"}
    assert all(facts["collects"] for facts in found.values())  # garbage, but of none of torch's own objects


def test_each_sees_one_of_the_devices_and_has_its_threads(swept):
    assert {facts["device"] for facts in notes(swept[0]).values()} == {"5", "7"}
    assert {facts["threads"] for facts in notes(swept[0]).values()} == {3}


def test_however_one_ends_the_others_run_and_the_account_says_why(swept):
    _, outcome = swept
    assert outcome.code == 1
    logs = r"\S+/run.log"
    expected = [
        "peft-vision: 5 of the sweep's 8 points failed",
        "  task.act=raise: RuntimeError: no luck",
        "  task.act=exit: notes exit",
        f"  task.act=kill: killed by SIGKILL, as is done where memory runs out; {logs}",
        "  task.act=refuse: act: got refuse",
        "  task.act=busy: another process is at it",
        "write note",
    ]
    lines = outcome.err.splitlines()
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), (line, pattern)


def test_the_log_of_each_is_kept(swept):
    folder, _ = swept
    logs = [path.read_text() for path in folder.rglob("run.log")]
    assert len(logs) == 8
    assert sum("notes raise" in text and "Traceback" in text for text in logs) == 1


def test_a_prefix_starts_a_python_of_its_own(tmp_path):
    prefix = ("hydra.launcher.prefix='env MARK=here'", "hydra.launcher.threads=1")
    outcome = sweep(tmp_path, "refuse", *prefix)
    (facts,) = notes(tmp_path).values()
    assert (facts["mark"], facts["threads"]) == ("here", 1)
    assert outcome.err.splitlines()[1].endswith(" task.act=refuse: act: got refuse")


def test_a_prefix_that_is_no_program_is_named(tmp_path):
    outcome = sweep(tmp_path, "note1,note2", "hydra.launcher.prefix='no-such-program -n1'")
    assert outcome.code == 1
    assert "hydra.launcher.prefix: no program no-such-program" in outcome.err
    assert "Traceback" not in outcome.err


def session(pid: int) -> list[int]:
    """The processes that are left of it."""
    listed = subprocess.run(["ps", "-s", str(pid), "-o", "pid=,stat="], capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if "Z" not in line.split()[1]]


def wait_until_gone(pid: int, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while session(pid):
        assert time.monotonic() < deadline, session(pid)
        time.sleep(0.05)


LEADS = "import os; os.setsid(); from peft_vision.cli import main; main()"


def alone(folder: Path) -> subprocess.Popen:
    """A sweep in a session of its own, once two of its runs have halted in the middle."""
    write_option(folder)
    process = start(*THREE, cwd=folder, program=("-c", LEADS), PYTHONPATH=PYTHONPATH)
    wait_for(lambda: len(halted(folder)) == 2, process)
    return process


def finish(folder: Path) -> None:
    """The same command ends what was begun, and each epoch is there once."""
    (folder / "go").touch()
    outcome = command(*THREE, cwd=folder, PYTHONPATH=PYTHONPATH)
    assert (outcome.code, outcome.err) == (0, "")
    assert len(results(folder)) == 3
    for path in results(folder):
        epochs = [json.loads(line)["epoch"] for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
        assert epochs == list(range(1, 6))
    assert sum("resumes   after epoch" in path.read_text() for path in folder.rglob("run.log")) == 2


@pytest.mark.parametrize("whom", ["all", "the sweep"])
def test_ctrl_c_ends_the_runs_and_the_same_command_goes_on(whom, tmp_path):
    process = alone(tmp_path)
    (os.killpg if whom == "all" else os.kill)(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert (process.returncode, err) == (
        1,
        "peft-vision: stopped; the same command goes on from the last saved epoch\n",
    )
    wait_until_gone(process.pid, seconds=10)  # the server that forks runs ends once the sweep has
    assert results(tmp_path) == []
    assert list(tmp_path.rglob("failed.json")) == []
    if whom == "all":
        finish(tmp_path)


def test_runs_end_with_a_sweep_that_is_killed(tmp_path):
    process = alone(tmp_path)
    process.kill()
    process.communicate()
    wait_until_gone(process.pid, seconds=10)
    assert results(tmp_path) == []
    finish(tmp_path)


def test_a_job_with_nothing_left_to_do_costs_no_process(tmp_path):
    pool = PoolLauncher(jobs=2, devices=None, threads=None, prefix=None)
    jobs = [Job.of(["task=none"], tmp_path / "run.log")] * 3
    assert list(pool.carry_out(jobs, lambda number: False)) == [(0, 0), (1, 0), (2, 0)]
    assert list(tmp_path.iterdir()) == []
