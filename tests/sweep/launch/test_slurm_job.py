"""A job of Slurm from the inside, with a run that ends as a test wants it to."""

import os
import signal
import subprocess
import time

import pytest
from submitit.core.utils import UncompletedJobError

from peft_vision.core.stopping import Stopped, at_once, when_ready
from peft_vision.sweep.launch import slurm_job, slurm_queue
from peft_vision.sweep.launch.process_launcher import Job
from peft_vision.sweep.launch.slurm_job import SlurmJob
from peft_vision.sweep.launch.slurm_queue import noted, reminded


class QueuedAgain(BaseException):
    """Stands for the end of the process as submitit ends it."""


@pytest.fixture
def asked(monkeypatch):
    """How often submitit was asked to queue the job again."""
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("PEFT_VISION_JOB_ENDS", str(time.time() + 600))
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    asked = []

    def queue_again(signum, _):
        asked.append(signum)
        raise QueuedAgain

    before = signal.signal(signal.SIGUSR2, queue_again)
    yield asked
    signal.signal(signal.SIGUSR2, before)


def ended(tmp_path, monkeypatch, exit_code: int) -> SlurmJob:
    """The job of a run that ends with this."""
    monkeypatch.setattr(Job, "__call__", lambda job: exit_code)
    return SlurmJob(Job.of(["seed=0"], tmp_path / "run.log"))


@pytest.mark.parametrize("exit_code", [0, 1, 75])
def test_a_run_that_ends_by_itself_says_how(exit_code, asked, tmp_path, monkeypatch):
    assert ended(tmp_path, monkeypatch, exit_code)() == exit_code
    assert asked == []


def test_a_run_that_was_warned_is_queued_again_once_it_has_stopped(asked, tmp_path, monkeypatch):
    with pytest.raises(QueuedAgain):
        ended(tmp_path, monkeypatch, 128 + signal.SIGUSR2)()
    assert asked == [signal.SIGUSR2]


def test_one_that_was_queued_again_too_often_has_failed(asked, tmp_path, monkeypatch):
    def refuses(*_):
        raise UncompletedJobError("Job not requeued because: timed-out too many times.")

    signal.signal(signal.SIGUSR2, refuses)
    submission = ended(tmp_path, monkeypatch, 128 + signal.SIGUSR2)
    assert submission() == 128 + signal.SIGUSR2
    assert str(submission.job.fault(submission())).startswith(
        "Job not requeued because: timed-out too many times. The same command"
    )


def test_of_one_that_was_told_to_end_slurm_says_what_becomes(asked, tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(slurm_job, "sleep", waited.append)
    assert ended(tmp_path, monkeypatch, 128 + signal.SIGTERM)() == 128 + signal.SIGTERM
    assert waited
    assert asked == []


def test_a_training_that_does_not_end_its_epoch_is_interrupted_before_the_job_is(monkeypatch):
    monkeypatch.setattr(slurm_queue, "_MARGIN_SECONDS", 0.0)
    monkeypatch.setenv("PEFT_VISION_JOB_ENDS", str(time.time() + 0.2))

    def endless_epoch():
        with at_once(), when_ready(), reminded(signal.SIGUSR2):
            os.kill(os.getpid(), signal.SIGUSR2)
            time.sleep(20)

    began = time.monotonic()
    with pytest.raises(Stopped):
        endless_epoch()
    assert time.monotonic() - began < 10


def test_a_job_notes_when_it_ends():
    script = f"{noted(minutes=3)}; echo $PEFT_VISION_JOB_ENDS"
    printed = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    assert float(printed) == pytest.approx(time.time() + 180, abs=5)
