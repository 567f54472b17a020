"""Trackers, with W&B's own client: online against a small server on this machine, and offline."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from PIL import Image

from peft_vision.core.config import CONFIG_DIR, ConfigError, build
from peft_vision.tracker.trackers import Tracker
from wandb_server import KEY, WandbServer

# W&B never waits for the process it starts; `client` collects the object inside the test that made it
pytestmark = pytest.mark.filterwarnings(r"ignore:subprocess \d+ is still running:ResourceWarning")


def tracker(option: str = "wandb", **changes) -> Tracker:
    node = yaml.safe_load((CONFIG_DIR / f"tracker/{option}.yaml").read_text())
    return build(node | changes, Tracker, "tracker")


def opened(this: Tracker, folder: Path, run_id: str = "abc12345", **changes):
    values = {"name": "digits/linear/s0", "group": "sweep", "tags": ["linear"], "config": {"seed": 0}}
    values["job_type"] = "train"
    return this.open(run_id=run_id, folder=folder, **values | changes)


@pytest.fixture
def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def rows(run) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if not key.startswith("_")} for row in run.history]


def test_a_run_arrives_with_all_that_belongs_to_it(server, tmp_path, capfd):
    this = tracker(project="my-project", group="mine", tags=["mine", "t" * 99])
    with opened(this, tmp_path, config={"seed": 0, "method": {"rank": 8}}) as log:
        for epoch in range(3):
            log.metrics({"train/loss": 1 / (epoch + 1), "val/accuracy": epoch / 4}, step=epoch)
        log.summary({"test/accuracy": 0.5})
    run = server.runs["abc12345"]
    assert rows(run) == [
        {"train/loss": 1 / (epoch + 1), "val/accuracy": epoch / 4, "epoch": epoch} for epoch in range(3)
    ]
    assert run.summary["test/accuracy"] == 0.5
    assert run.summary["val/accuracy"] == 0.5
    assert (run.project, run.display_name, run.group) == ("my-project", "digits/linear/s0", "mine")
    assert run.job_type == "train"
    assert run.tags == ["linear", "mine", "t" * 64]
    assert run.config["method"]["value"] == {"rank": 8}
    assert run.exit_code == 0
    assert axes(run) == ["epoch"]
    assert capfd.readouterr() == ("", "")


def axes(run) -> list[str]:
    """The axes that W&B was told of for every metric."""
    defined = run.config["_wandb"]["value"]["m"]
    name, glob, step_index = "1", "2", "5"  # the fields of W&B's protocol; the index counts from one
    return [defined[entry[step_index] - 1][name] for entry in defined if entry.get(glob) == "*"]


def test_pictures_and_tables_are_kept_with_the_run(client, tmp_path):
    Image.new("RGB", (4, 3), "red").save(tmp_path / "red.png")
    with opened(tracker(mode="offline"), tmp_path) as log:
        log.pictures({"ood-shifts": tmp_path / "red.png"})
        log.table("leaderboard", ["method", "accuracy"], [["lora", 0.75], ["full", None]])
    (kept,) = tmp_path.glob("wandb/offline-run-*/files/media/images/ood-shifts*.png")
    assert kept.read_bytes() == (tmp_path / "red.png").read_bytes()
    (path,) = tmp_path.glob("wandb/offline-run-*/files/media/table/leaderboard*.table.json")
    table = json.loads(path.read_text())
    assert table["columns"] == ["method", "accuracy"]
    assert table["data"] == [["lora", 0.75], ["full", None]]


def test_runs_of_one_process_stay_separate(server, tmp_path):
    for run_id, loss in [("first", 1.0), ("second", 2.0)]:
        with opened(tracker(), tmp_path, run_id) as log:
            log.metrics({"train/loss": loss}, step=0)
    assert rows(server.runs["first"]) == [{"train/loss": 1.0, "epoch": 0}]
    assert rows(server.runs["second"]) == [{"train/loss": 2.0, "epoch": 0}]


def test_the_same_id_goes_on_with_the_same_run(server, tmp_path, capfd):
    with opened(tracker(), tmp_path, config={"seed": 0, "workers": 2}) as log:
        log.metrics({"train/loss": 1.0}, step=0)
    with opened(tracker(), tmp_path, config={"seed": 0, "workers": 4}) as log:
        log.metrics({"train/loss": 0.5}, step=1)
    run = server.runs["abc12345"]
    assert rows(run) == [{"train/loss": 1.0, "epoch": 0}, {"train/loss": 0.5, "epoch": 1}]
    assert [row["_step"] for row in run.history] == [0, 1]
    assert run.config["workers"]["value"] == 4
    assert capfd.readouterr() == ("", "")


def test_an_exception_marks_the_run_failed_and_goes_on(server, tmp_path):
    with pytest.raises(ZeroDivisionError), opened(tracker(), tmp_path):
        raise ZeroDivisionError
    assert server.runs["abc12345"].exit_code == 1
    with opened(tracker(), tmp_path, "next"):
        pass
    assert server.runs["next"].exit_code == 0


def test_ctrl_c_marks_the_run_failed(server, tmp_path):
    with pytest.raises(KeyboardInterrupt), opened(tracker(), tmp_path):
        raise KeyboardInterrupt
    assert server.runs["abc12345"].exit_code == 1


def test_a_server_gone_is_one_warning_and_no_end_of_training(server, tmp_path, capfd):
    with opened(tracker(finish_timeout=1), tmp_path) as log:
        log.metrics({"train/loss": 1.0}, step=0)
        server.vanish()
        for epoch in range(1, 4):
            log.metrics({"train/loss": 0.5}, step=epoch)
        log.summary({"test/accuracy": 0.5})
        ending = time.monotonic()
    assert time.monotonic() - ending < 10
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("W&B: Timed out finishing run; the run folder has it all; to upload it later: ")


def test_a_server_gone_does_not_hide_why_the_training_failed(server, tmp_path):
    with pytest.raises(ZeroDivisionError), opened(tracker(finish_timeout=1), tmp_path):  # noqa: PT012
        server.vanish()
        raise ZeroDivisionError


def test_what_a_lost_server_missed_can_be_uploaded_with_the_command_of_the_warning(server, tmp_path, capfd):
    with opened(tracker(), tmp_path) as log:
        server.refuse = True
        log.metrics({"train/loss": 1.0}, step=0)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("W&B: Fatal error while uploading data; the run folder has it all; to upload")
    server.refuse = False
    assert rows(server.runs["abc12345"]) == []
    sync(line)
    assert rows(server.runs["abc12345"]) == [{"train/loss": 1.0, "epoch": 0}]


def test_online_with_a_refusing_server_is_an_error(server, tmp_path):
    server.refuse = True
    with pytest.raises(ConfigError, match=r"^tracker.mode=online: http://127.* 401.*offline$") as caught:
        opened(tracker(mode="online"), tmp_path).__enter__()
    assert "\n" not in str(caught.value)


def test_auto_without_a_server_goes_on_offline_and_can_be_uploaded(client, closed_port, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_BASE_URL", closed_port)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    start = time.monotonic()
    with opened(tracker(init_timeout=2), tmp_path) as log:
        assert time.monotonic() - start < 20
        log.metrics({"train/loss": 1.0}, step=0)
        log.summary({"test/accuracy": 0.5})
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"W&B: logged offline ({closed_port} does not accept this run")
    with WandbServer() as server:
        sync(line, WANDB_BASE_URL=server.url)
        run = server.runs["abc12345"]
    assert rows(run) == [{"train/loss": 1.0, "epoch": 0}]
    assert run.summary["test/accuracy"] == 0.5
    assert run.group == "sweep"  # the run's own, where the config has none


def sync(line: str, **variables: str) -> None:
    """Does what the line tells the user to do."""
    command = shlex.split(line[line.index("wandb sync") :])
    subprocess.run(
        [sys.executable, "-m", *command],
        env=os.environ | variables,
        check=True,
        capture_output=True,
        timeout=60,
    )


def test_a_malformed_variable_is_said_in_one_line(client, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "garbage")
    with pytest.raises(ConfigError, match=r"^tracker: W&B's base_url: got 'garbage', .*URL"):
        opened(tracker(), tmp_path).__enter__()


def test_disabled_by_variable_leaves_nothing(client, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    folder = tmp_path / "run"
    folder.mkdir()
    with opened(tracker(), folder) as log:
        log.metrics({"train/loss": 1.0}, step=0)
        log.summary({"test/accuracy": 0.5})
    assert list(folder.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"project": "me/vit"}, "tracker.project: got 'me/vit', W&B does not take / in"),
        ({"project": ""}, "tracker.project: got '', W&B takes 1 to 128"),
        ({"project": "p" * 129}, "W&B takes 1 to 128"),
        ({"entity": "team:me"}, "tracker.entity: got 'team:me', W&B does not take : in"),
        ({"tags": ["fine", " "]}, "tracker.tags: got ' '"),
        ({"tags": ["two\nlines"]}, r"tracker.tags: got 'two\nlines'"),
        ({"init_timeout": 0}, "tracker.init_timeout: got 0"),
        ({"mode": "sometimes"}, "tracker.mode: got 'sometimes'"),
    ],
)
def test_what_wandb_would_refuse_is_refused_first(changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        tracker(**changes).check()


def test_no_tracker_takes_everything_and_keeps_nothing(tmp_path):
    this = tracker("none")
    this.check()
    with opened(this, tmp_path) as log:
        log.metrics({"train/loss": 1.0}, step=0)
        log.summary({"test/accuracy": 0.5})
    assert list(tmp_path.iterdir()) == []


def test_building_a_tracker_imports_neither_wandb_nor_torch():
    script = """
import sys, yaml
from peft_vision.core.config import CONFIG_DIR
from peft_vision.core.config import build
from peft_vision.tracker.trackers import Tracker
build(yaml.safe_load((CONFIG_DIR / "tracker/wandb.yaml").read_text()), Tracker, "tracker").check()
assert not {"wandb", "torch"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
