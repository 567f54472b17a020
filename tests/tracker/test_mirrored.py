"""Which of W&B's runs a run is: another one for each attempt, the same one for what goes on, or an agent's."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import yaml

from command import SMOKE, call, results, run_folder, start
from peft_vision.core.config import ConfigError
from peft_vision.runs.run import Run, attempt, mirrored_as
from wandb_server import ServedRun, WandbServer

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:subprocess \d+ is still running:ResourceWarning"),
    # W&B leaves it open
    pytest.mark.filterwarnings("ignore:.*name='sweep.yaml':pytest.PytestUnraisableExceptionWarning"),
]
MIRRORED = (*SMOKE, "tracker=wandb", "trainer.epochs=3", "trainer.save_seconds=0")
ALL = [1, 2, 3]


def epochs(run: ServedRun) -> list[int]:
    return [row["epoch"] for row in run.history if "epoch" in row]


def kill_after(saves: int, cwd: Path, monkeypatch) -> None:
    """The run stops with that many states saved; of the epoch behind them all is told but not saved."""
    write_state, append_metrics, rows = Run.write_state, Run.append_metrics, []

    def append(run, row):
        append_metrics(run, row)
        rows.append(row)

    def write(run, state):
        if len(rows) > saves:
            raise KeyboardInterrupt
        write_state(run, state)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "append_metrics", append)
        patch.setattr(Run, "write_state", write)
        assert call(*MIRRORED, cwd=cwd).code == 1
    assert len(rows) == saves + 1


def test_a_run_done_anew_is_another_one(server: WandbServer, tmp_path):
    for folder in ("runs=a", "runs=b", "runs=b"):
        if folder == "runs=b":
            shutil.rmtree(tmp_path / "b", ignore_errors=True)
        assert call(*MIRRORED, folder, cwd=tmp_path).code == 0
    assert [epochs(run) for run in server.runs.values()] == [ALL] * 3
    assert len({run_id.partition("-")[0] for run_id in server.runs}) == 1


def test_a_run_that_goes_on_is_the_same_one_and_each_epoch_is_there_once(server, tmp_path, monkeypatch):
    kill_after(1, tmp_path, monkeypatch)
    (run,) = server.runs.values()
    assert epochs(run) == [1, 2]
    assert call(*MIRRORED, cwd=tmp_path).code == 0
    assert [epochs(run) for run in server.runs.values()] == [ALL]
    assert run.summary["test/accuracy"] == json.loads(results(tmp_path)[0].read_text())["metrics"]["test/accuracy"]


def test_one_of_which_nothing_was_saved_begins_anew(server, tmp_path, monkeypatch):
    kill_after(0, tmp_path, monkeypatch)
    assert call(*MIRRORED, cwd=tmp_path).code == 0
    assert [epochs(run) for run in server.runs.values()] == [[1], ALL]


@pytest.fixture
def agent(server, monkeypatch):
    """Stands for a W&B sweep's agent that starts the next command for this run of its own."""

    def starts(run_id: str) -> WandbServer:
        monkeypatch.setenv("WANDB_SWEEP_ID", "sw33p")
        monkeypatch.setenv("WANDB_RUN_ID", run_id)
        return server

    return starts


def test_an_agents_run_is_a_run_of_its_own_and_a_finished_one_says_its_figures_again(agent, tmp_path):
    assert call(*MIRRORED, cwd=tmp_path).code == 0
    first = agent("first")
    assert call(*MIRRORED, cwd=tmp_path).code == 0
    agent("second")
    assert call(*MIRRORED, cwd=tmp_path).code == 0
    without_agent, *others = first.runs.values()
    assert list(first.runs)[1:] == ["first", "second"]
    for run in (without_agent, *others):
        assert epochs(run) == ALL
        for key in ("val/accuracy", "test/accuracy", "train_seconds"):
            assert run.summary[key] == without_agent.summary[key]


def test_an_agents_run_that_goes_on_tells_the_epochs_before(agent, tmp_path, monkeypatch):
    agent("killed")
    kill_after(1, tmp_path, monkeypatch)
    server = agent("again")
    assert call(*MIRRORED, cwd=tmp_path).code == 0
    assert {run_id: epochs(run) for run_id, run in server.runs.items()} == {"killed": [1, 2], "again": ALL}


@pytest.mark.parametrize("report", [True, False])
def test_the_runs_of_an_agents_multirun_are_their_own_and_it_is_told_the_mean(report, agent, tmp_path):
    sweep = ("-m", *MIRRORED, "seed=0,1", *(() if report else ("hydra.sweeper.report=null",)))
    for run_id in ("theirs", "once-more"):  # which finds all done
        server = agent(run_id)
        assert call(*sweep, cwd=tmp_path, reports=True).code == 0
    assert sorted(run.job_type for run in server.runs.values()) == ["sweep", "sweep", "train", "train"]
    figures = [json.loads(path.read_text())["metrics"]["test/accuracy"] for path in results(tmp_path)]
    for run_id in ("theirs", "once-more"):
        assert server.runs[run_id].summary["test/accuracy"] == pytest.approx(sum(figures) / 2)
    assert [epochs(run) for run in server.runs.values() if run.job_type == "train"] == [ALL, ALL]


def test_an_attempt_keeps_its_id_until_it_is_begun_anew(tmp_path):
    assert attempt(tmp_path, anew=False) == ""  # of an earlier version
    assert mirrored_as("abc", tmp_path, anew=False) == "abc"
    first = attempt(tmp_path, anew=True)
    assert re.fullmatch("[0-9a-f]{8}", first)
    assert mirrored_as("abc", tmp_path, anew=False) == f"abc-{first}"
    assert attempt(tmp_path, anew=True) != first


@pytest.mark.parametrize("content", [b"", b"../../etc", b"\xff\xfe", b"ABCDEF01"])
def test_an_attempt_that_was_tampered_with_is_none(content, tmp_path):
    (tmp_path / ".attempt").write_bytes(content)
    assert attempt(tmp_path, anew=False) == ""


def test_one_that_is_no_small_file_is_named(tmp_path):
    (tmp_path / ".attempt").write_bytes(b"a" * 1000)
    with pytest.raises(ConfigError, match="attempt"):
        attempt(tmp_path, anew=False)


def test_a_run_without_a_tracker_has_an_attempt_too(tmp_path):
    assert call(*SMOKE, "tracker=none", cwd=tmp_path).code == 0
    assert len(attempt(run_folder(tmp_path / "runs"), anew=False)) == 8


@pytest.fixture
def agents_commands(tmp_path, monkeypatch) -> Iterator[list[list[str]]]:
    """The commands that W&B's own agent starts, in forked processes. It asks for them five times a second, for once in
    five seconds."""
    from wandb import wandb_agent

    commands, processes = [], []

    def fork(words: list[str], *, env: dict[str, str], **_):
        process = start(*words[1:], cwd=tmp_path, **{"WANDB_MODE": "online", **env})
        process.stdin = StringIO()
        commands.append(words)
        processes.append(process)
        return process

    monkeypatch.setattr(wandb_agent, "subprocess", SimpleNamespace(Popen=fork, PIPE=subprocess.PIPE))
    monkeypatch.setattr(wandb_agent.Agent, "POLL_INTERVAL", 0.2)
    yield commands
    for process in processes:
        process.communicate()


def test_the_sweep_of_the_page_on_trackers_is_run_by_wandbs_own_agent(
    server, variables, agents_commands, tmp_path, monkeypatch
):
    """By the commands of the page; the sweep's own ask for less."""
    from wandb.cli.cli import cli

    page = (Path(__file__).parents[2] / "docs" / "trackers.md").read_text()
    sweep = yaml.safe_load(re.search(r"```yaml\n# sweep.yaml\n(.*?)```", page, re.DOTALL)[1])
    assert (sweep["metric"]["name"], sweep["command"][1:3]) == ("val/accuracy", ["method=lora", "data=cifar100"])
    sweep["command"][2] = "data=digits"
    sweep["command"][1:1] = [*SMOKE[:1], "tracker=wandb", "trainer.epochs=1"]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    server.points = [{"optimizer.lr": 0.01, "method.rank": 4}, {"optimizer.lr": 0.02, "method.rank": 8}]
    assert all(point.keys() == sweep["parameters"].keys() for point in server.points)
    begin, go_on = re.findall(r"^    wandb (sweep|agent) (\S+)$", page, re.M)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_PROJECT", "peft-vision")
    with mock.patch.dict(os.environ):
        for words in (begin, (go_on[0], go_on[1].replace("SWEEP", "sw33p"))):
            cli(words, standalone_mode=False)
    assert [words[:3] for words in agents_commands] == [["peft-vision", "experiment=smoke", "tracker=wandb"]] * 2
    assert yaml.safe_load(server.sweep)["parameters"].keys() == sweep["parameters"].keys()
    assert {state for states in server.sweep_states for state in states} == {"point-1", "point-0"}
    for run_id, lr, rank in (("point-1", 0.01, 4), ("point-0", 0.02, 8)):
        run = server.runs[run_id]
        assert (run.project, run.exit_code, epochs(run)) == ("peft-vision", 0, [1])
        assert run.summary["val/accuracy"] == run.history[0]["val/accuracy"]
        assert run.config["optimizer"]["value"]["lr"] == lr
        assert run.config["method"]["value"]["rank"] == rank
    assert len(results(tmp_path)) == 2
