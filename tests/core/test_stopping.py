"""Being asked to stop, in a process and as a user does it."""

import os
import signal

import pytest
import torch

from command import call, results, run_folder, start, wait_for
from peft_vision.core.stopping import Stopped, at_once, when_ready
from test_resume import HALTED, Life, assert_same_run, live, metrics

RANDOM = ("experiment=smoke", "method=vpt_deep", "method.dropout=0.2", "optimizer=adamw", "data.augment=flip_crop")
RANDOM += ("trainer.epochs=5", "trainer.save_seconds=1e6")


def ask(number: int = signal.SIGUSR2) -> None:
    """This process."""
    os.kill(os.getpid(), number)


def asked_in_training(*numbers: int, epoch: list[int]) -> None:
    """Is asked by one signal after the other, and appends to `epoch` what it knows of it at its end."""
    with at_once(), when_ready() as asked_by:
        assert asked_by() == 0
        for number in numbers:
            ask(number)
        epoch.append(asked_by())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_what_is_no_training_stops_at_once(number):
    with pytest.raises(Stopped, match=number.name) as stopped, at_once():
        ask(number)
    assert stopped.value.exit_code == 128 + number


def test_a_training_chooses_when_to_stop():
    epoch = []
    with pytest.raises(Stopped, match="SIGUSR2"):
        asked_in_training(signal.SIGUSR2, epoch=epoch)
    assert epoch == [signal.SIGUSR2]


def test_asked_twice_it_stops_at_once():
    epoch = []
    with pytest.raises(Stopped, match="SIGTERM"):
        asked_in_training(signal.SIGUSR2, signal.SIGTERM, epoch=epoch)
    assert epoch == []


def test_what_a_signal_did_before_it_does_again():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)]
    with pytest.raises(Stopped):
        asked_in_training(signal.SIGUSR2, epoch=[])
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)] == before


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Life:
    return live(RANDOM, tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.slow
def test_it_saves_the_epoch_that_it_is_in_and_goes_on_to_the_same_weights(undisturbed, tmp_path):
    process = start(*RANDOM, cwd=tmp_path, program=("-c", HALTED))
    wait_for((tmp_path / "halted").exists, process)
    process.send_signal(signal.SIGTERM)
    (tmp_path / "go").touch()
    _, err = process.communicate(timeout=30)
    assert err.splitlines()[-1] == "peft-vision: stopped; the same command goes on from the last saved epoch"
    assert process.returncode == 128 + signal.SIGTERM
    folder = run_folder(tmp_path / "runs")
    assert results(tmp_path) == []
    assert not (folder / "failed.json").exists()
    epochs = [row["epoch"] for row in metrics(folder)]
    assert torch.load(folder / "state.pt", weights_only=True)["standing"]["epochs"] == epochs[-1] < 5

    again = call(*RANDOM, cwd=tmp_path)
    assert f"resumes   after epoch {epochs[-1]}" in again.out
    assert_same_run(folder, undisturbed.folder)
