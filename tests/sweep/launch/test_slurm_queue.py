"""What becomes of jobs, with commands in place of Slurm's that say what a test tells them to."""

import pickle
from pathlib import Path

import pytest

from peft_vision.core.config import ConfigError
from peft_vision.sweep.launch import slurm_queue
from peft_vision.sweep.launch.process_launcher import Job
from peft_vision.sweep.launch.slurm import SlurmLauncher
from peft_vision.sweep.launch.slurm_queue import JobState, Queue, Submitted

FORGOTTEN = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
SILENT = "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1"


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Says what a command of Slurm's does from now on, as a shell script. Each notes its arguments in `said`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def does(name: str, script: str) -> None:
        path = folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/said\n{script}\n')
        path.chmod(0o755)

    does("srun", "")
    does("scancel", "")
    does("sbatch", "echo Submitted batch job 7")
    does("scontrol", "echo 'MaxArraySize            = 1001'")
    does("squeue", FORGOTTEN)
    return does


def launcher(folder: Path, /, **changes: object) -> SlurmLauncher:
    options = {"folder": folder / "slurm", "poll_seconds": 0.01, "max_num_timeout": 3, "cancel": True, "timeout_min": 5}
    options |= {"cpus_per_task": 2, "tasks_per_node": 1, "mem_gb": 1.5, "name": "test", "setup": [], "partition": None}
    return SlurmLauncher(**{**options, "array_parallelism": 4, **changes})


def jobs(folder: Path, count: int) -> list[Job]:
    return [Job.of([f"seed={number}"], folder / f"{number}.log") for number in range(count)]


def said(folder: Path, command: str) -> list[str]:
    lines = (folder / "said").read_text().splitlines()
    return [line for line in lines if line.startswith(f"{command} ")]


def test_a_job_that_waits_runs_or_comes_back_is_not_over(slurm):
    slurm("squeue", r"printf '7_0|RUNNING|None\n7_1|PENDING|BeginTime\n7_2|COMPLETING|None\n7_3|TIMEOUT|TimeLimit\n'")
    standings = Queue().look(["7_0", "7_1", "7_2", "7_3", "7_4"])
    assert [standings[job].is_over for job in standings] == [False, False, False, True, True]


def test_a_job_that_only_a_person_lets_go_is_told(slurm):
    slurm("squeue", "echo '7|PENDING|launch failed requeued held'")
    assert Queue().look(["7"])["7"].is_held


def test_a_slurm_that_does_not_answer_says_nothing_of_a_job_for_an_hour(slurm, monkeypatch):
    queue = Queue()
    slurm("squeue", SILENT)
    assert not queue.look(["7"])["7"].is_over
    monkeypatch.setattr(slurm_queue, "_SILENT_SECONDS", 0.0)
    with pytest.raises(ConfigError, match="does not answer any more: slurm_load_jobs error: Unable"):
        queue.look(["7"])


def test_jobs_end_with_what_they_left(slurm, tmp_path):
    launched = jobs(tmp_path, 3)
    slurm("sbatch", f"echo Submitted batch job 7; mkdir -p {tmp_path}/slurm; cp {tmp_path}/results/* {tmp_path}/slurm")
    (tmp_path / "results").mkdir()
    for number, content in enumerate([("success", 0), ("success", 75), ("error", "Traceback\nOSError: no disk\n")]):
        (tmp_path / "results" / f"7_{number}_0_result.pkl").write_bytes(pickle.dumps(content))
    assert list(launcher(tmp_path).carry_out(launched, lambda number: None)) == [(0, 0), (1, 75), (2, 1)]
    assert str(launched[2].fault(1)) == "OSError: no disk"
    assert list((tmp_path / "slurm").glob("7_?_*")) == []
    assert said(tmp_path, "scancel") == []


def test_a_job_that_left_nothing_has_failed_and_its_log_says_how(slurm, tmp_path):
    (job,) = jobs(tmp_path, 1)
    slurm("squeue", "echo '7|OUT_OF_MEMORY|OutOfMemory'")
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "7_0_log.err").write_text("slurmstepd: error: Detected 1 oom-kill event\nsrun: ended\n")
    assert list(launcher(tmp_path).carry_out([job], lambda number: None)) == [(0, 1)]
    reason = "Slurm's job 7 ended as OUT_OF_MEMORY; slurmstepd: error: Detected 1 oom-kill event; "
    assert str(job.fault(1)).startswith(reason)


OVER, RUNS = "COMPLETED", "RUNNING"


@pytest.mark.parametrize(
    ("states", "shows", "code"),
    [
        ([OVER] * 4, 3, 0),  # the last look that is waited for
        ([OVER] * 4, 9, 1),
        ([OVER, OVER, OVER, RUNS, OVER, OVER, OVER], 6, 0),  # queued again meanwhile
        ([OVER, OVER, OVER, RUNS, OVER, OVER, OVER, OVER], 9, 1),
        ([RUNS], 0, 0),  # squeue is late itself
    ],
)
def test_what_a_job_wrote_may_show_some_looks_later(states, shows, code, slurm, tmp_path, monkeypatch):
    """`shows`: at which look, from 0 on, its result is there."""
    (job,) = jobs(tmp_path, 1)
    looks = []

    def look(queue, ids):
        looks.append(states[len(looks)])
        return {job_id: JobState(looks[-1], "") for job_id in ids}

    monkeypatch.setattr(Queue, "look", look)
    monkeypatch.setattr(Submitted, "exit_code", lambda submitted: 0 if len(looks) > shows else None)
    assert list(launcher(tmp_path).carry_out([job], lambda number: None)) == [(0, code)]
    assert looks == states


@pytest.mark.parametrize("cancels", [True, False])
def test_a_sweep_that_is_stopped_cancels_its_jobs_unless_told_otherwise(cancels, slurm, tmp_path):
    slurm("squeue", r"printf '7_0|RUNNING|None\n7_1|RUNNING|None\n'")
    begun = []

    def start(number: int) -> None:
        begun.append(number)
        if number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(launcher(tmp_path, cancel=cancels).carry_out(jobs(tmp_path, 2), start))
    assert begun == [0, 1]
    assert said(tmp_path, "scancel") == ["scancel --quiet 7_0 7_1"] * cancels


def test_more_runs_than_an_array_takes_are_several(slurm, tmp_path):
    slurm("scontrol", "echo 'MaxArraySize            = 3'")
    assert len(launcher(tmp_path)._submit(jobs(tmp_path, 5))) == 5
    assert len(said(tmp_path, "sbatch")) == 3


def test_the_job_asks_for_what_the_options_say(slurm, tmp_path):
    options = {"partition": "gpu", "gres": "gpu:1", "setup": ["module load cuda"], "signal_delay_s": 60}
    launcher(tmp_path, **options)._submit(jobs(tmp_path, 1))
    text = (tmp_path / "slurm" / "7_submission.sh").read_text()
    for line in ("--partition=gpu", "--gres=gpu:1", "--mem=1536M", "--time=5", "--signal=USR2@60", "--cpus-per-task=2"):
        assert f"#SBATCH {line}\n" in text
    assert "\nmodule load cuda\n" in text
    assert " --cpus-per-task=2 " in text.splitlines()[-1]  # of srun


@pytest.mark.parametrize("minutes", [None, 0, 1.5, "1:00"])
def test_a_job_needs_a_time_limit_in_minutes(minutes, tmp_path):
    with pytest.raises(ConfigError, match=rf"^hydra\.launcher\.timeout_min: got {minutes!r}, should be whole minutes"):
        launcher(tmp_path, timeout_min=minutes)


@pytest.mark.parametrize(
    ("changes", "script", "message"),
    [
        ({"partitoin": "gpu"}, "", "hydra.launcher: Unavailable parameter"),
        ({}, "echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1", "sbatch: error: invalid partition"),
    ],
)
def test_what_slurm_does_not_take_is_said_in_its_words(changes, script, message, slurm, tmp_path):
    slurm("sbatch", script)
    with pytest.raises(ConfigError, match=message):
        launcher(tmp_path, **changes)._submit(jobs(tmp_path, 1))


@pytest.mark.parametrize("folder", ["slurm", "slurm/below"])
def test_a_folder_that_cannot_be_made_is_named(folder, slurm, tmp_path):
    (tmp_path / "slurm").touch()
    said = rf"cannot write {tmp_path}/{folder}: .*\nset hydra.launcher.folder=FOLDER to a folder"
    with pytest.raises(ConfigError, match=said):
        launcher(tmp_path, folder=tmp_path / folder)._submit(jobs(tmp_path, 1))


def test_files_of_jobs_may_lie_in_the_home_folder(slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "bin")
    launcher(tmp_path, folder="~/runs/.slurm")._submit(jobs(tmp_path, 1))
    assert (tmp_path / "runs" / ".slurm" / "7_submission.sh").is_file()


def test_where_there_is_no_slurm_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no sbatch here"):
        launcher(tmp_path)._submit(jobs(tmp_path, 1))
