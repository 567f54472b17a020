"""A sweep on a real Slurm."""

import os
import re
import signal
from pathlib import Path

import pytest
from halting import CHOSEN, PYTHONPATH, halted, write_option
from one_node import OneNode, one_node, wait_for

from command import call, results, start
from test_resume import assert_same_run

TRAINING = ("experiment=smoke", "method=linear", "trainer.epochs=30", "trainer.save_seconds=0.1")
SWEEP = (
    "-m",
    *CHOSEN,
    *TRAINING,
    "seed=0,1",
    "hydra/launcher=slurm",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.mem_gb=1",
    "hydra.launcher.poll_seconds=1",
)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with one_node(tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm


def folder(cwd: Path, seed: int) -> Path:
    """Of that run."""
    (found,) = cwd.glob(f"runs/*-s{seed}-*")
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_and_a_requeued_run_end_as_if_they_had_been_left_alone(slurm: OneNode, tmp_path):
    write_option(tmp_path)
    variables = slurm.variables | {"PYTHONPATH": PYTHONPATH}
    sweep = start(*SWEEP, cwd=tmp_path, **variables)
    wait_for(lambda: halted(tmp_path), sweep)
    array = slurm.at_work()[0].partition("_")[0]

    def halted_run(seed: int) -> list[int]:
        """Its process; both may be at work at a time."""
        return [process for process in slurm.processes(f"{array}_{seed}") if process in halted(tmp_path)]

    wait_for(lambda: halted_run(0), sweep)
    (process,) = halted_run(0)
    os.kill(process, signal.SIGKILL)
    wait_for(lambda: halted_run(1), sweep)
    slurm.ask("scancel", "--signal=USR2", f"{array}_1")
    (tmp_path / "go").touch()
    out, err = sweep.communicate(timeout=200)
    assert sweep.returncode == 1, out
    *_, account, failed = err.splitlines()
    assert account == "peft-vision: 1 of the sweep's 2 points failed"
    assert re.match(rf"  seed=0: Slurm's job {array}_0 ended as FAILED; .*Killed", failed)
    assert len(results(tmp_path)) == 1
    log = (folder(tmp_path, 1) / "run.log").read_text()
    assert "peft-vision: stopped; the same command goes on" in log
    assert "resumes   after epoch" in log

    again = start(*SWEEP, cwd=tmp_path, **variables)
    out, err = again.communicate(timeout=200)
    assert again.returncode == 0, err
    assert re.search("1/2  before  seed=1 .*\n.*2/2  done    seed=0 ", out, flags=re.DOTALL)
    for seed in (0, 1):
        assert call(*TRAINING, f"seed={seed}", "runs=local", cwd=tmp_path).code == 0
        (local,) = tmp_path.glob(f"local/*-s{seed}-*")
        assert_same_run(folder(tmp_path, seed), local)
