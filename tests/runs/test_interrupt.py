"""Ctrl-C."""

import signal

import pytest

from command import SMOKE, call, results, run_folder, start, wait_for
from test_resume import HALTED

FIVE = (*SMOKE, "trainer.epochs=5", "trainer.save_seconds=0")


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(tmp_path):
    process = start(*FIVE, cwd=tmp_path, program=("-c", HALTED))
    wait_for((tmp_path / "halted").exists, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)
    said = [line for line in err.splitlines() if not line.startswith("training ")]
    assert said == ["peft-vision: stopped; the same command goes on from the last saved epoch"]
    assert process.returncode == 1
    assert results(tmp_path) == []

    again = call(*FIVE, cwd=tmp_path)
    assert again.code == 0
    assert "resumes   after epoch 2" in again.out
    assert len((run_folder(tmp_path / "runs") / "metrics.jsonl").read_text().splitlines()) == 5
