"""A sweep on Ray, where that is installed."""

import os
import signal
import subprocess

import pytest
from one_node import wait_for

from command import results, start

pytest.importorskip("ray", reason="Ray is not installed")
SWEEP = ("-m", "experiment=smoke", "method=linear", "trainer.epochs=600", "trainer.save_seconds=0", "seed=0,1")
RAY = ("hydra/launcher=ray_cluster", "+hydra.launcher.init.num_cpus=2")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ray_starts_a_killed_run_again_and_it_goes_on(tmp_path):
    sweep = start(*SWEEP, *RAY, cwd=tmp_path, RAY_AUTH_MODE="disabled")
    wait_for(lambda: len(list(tmp_path.glob("runs/*/state.pt"))) == 2, sweep)
    lines = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout.splitlines()
    running = [int(line.split()[0]) for line in lines if "ray::peft-vision" in line]
    os.kill(running[0], signal.SIGKILL)
    _, err = sweep.communicate(timeout=200)
    assert sweep.returncode == 0, err
    assert len(results(tmp_path)) == 2
    assert any("resumes   after epoch" in log.read_text() for log in tmp_path.glob("runs/*/run.log"))
