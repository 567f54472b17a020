"""Ctrl-C."""

import signal
import time

import pytest

from command import call, results, run_folder, start

LONG = ("experiment=smoke", "method=linear", "trainer.epochs=150", "trainer.save_seconds=0")


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(tmp_path):
    process = start(*LONG, cwd=tmp_path)
    while not list(tmp_path.glob("runs/*/state.pt")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    said = [line for line in err.splitlines() if not line.startswith("training ")]
    assert said == ["peft-vision: stopped; the same command goes on from the last saved epoch"]
    assert process.returncode == 1
    assert results(tmp_path) == []

    again = call(*LONG, cwd=tmp_path)
    assert again.code == 0
    assert "resumes   after epoch" in again.out
    assert len((run_folder(tmp_path / "runs") / "metrics.jsonl").read_text().splitlines()) == 150
