"""The end of a sweep, and what of it is mirrored."""

import json

import pytest
import yaml

from command import SMOKE, call, results
from peft_vision.core.config import CONFIG_DIR
from wandb_server import WandbServer

SWEEP = ("-m", *SMOKE, "optimizer=sgd", "tracker=wandb")
# W&B never waits for the process it starts
pytestmark = pytest.mark.filterwarnings(r"ignore:subprocess \d+ is still running:ResourceWarning")


def names(server: WandbServer) -> dict[str, str]:
    return {run.display_name: run.job_type for run in server.runs.values()}


def test_a_sweep_is_a_group_and_its_report_a_run_of_it(server, tmp_path):
    assert call(*SWEEP, "seed=0", cwd=tmp_path, reports=True).code == 0
    assert sorted(names(server).values()) == ["sweep", "train"]
    (group,) = {run.group for run in server.runs.values()}
    assert names(server)[group] == "sweep"

    # more values
    assert call(*SWEEP, "seed=0,1", cwd=tmp_path, reports=True).code == 0
    assert {run.group for run in server.runs.values()} == {group}
    assert sorted(names(server).values()) == ["sweep", "train", "train"]


def test_its_leaderboard_and_pictures_are_sent_when_there_is_something_new(variables, tmp_path):
    mirrors = (tmp_path / "runs" / "report" / "wandb").glob
    for seeds in ("0", "0,1", "0,1"):
        assert call(*SWEEP, f"seed={seeds}", "tracker.mode=offline", cwd=tmp_path, reports=True).code == 0
    first, second = sorted(mirrors("offline-run-*"), key=lambda path: path.stat().st_mtime_ns)
    ids = {path.name.split("-")[3] for path in (first, second)}  # another of the same second ends in -1
    assert len(ids) == 1
    assert list(second.glob("files/media/images/*.png"))
    (path,) = second.glob("files/media/table/leaderboard*.table.json")
    table = json.loads(path.read_text())
    assert "method" in table["columns"]
    assert len(table["data"]) == 1


def test_another_sweep_is_another_group_and_a_group_of_the_users_stays(variables, tmp_path):
    offline = (*SWEEP, "tracker.mode=offline")
    for others in (["seed=0,1"], ["seed=2", "optimizer.lr=0.05"], ["seed=3", "tracker.group=mine"]):
        assert call(*offline, *others, cwd=tmp_path).code == 0
    configs = [json.loads(path.read_text())["config"] for path in results(tmp_path)]
    groups = [config["tracker"]["group"] for config in sorted(configs, key=lambda config: config["seed"])]
    first, again, second, third = groups
    assert again == first
    assert first.startswith("smoke-")
    assert second.startswith("smoke-")
    assert first != second
    assert third == "mine"


def test_a_sweep_without_a_report_makes_none(tmp_path):
    assert call("-m", *SMOKE, "seed=0,1", "hydra.sweeper.report=null", cwd=tmp_path, reports=True).code == 0
    assert not (tmp_path / "runs" / "report").exists()


def test_the_report_of_a_sweep_has_the_values_of_a_report_by_itself():
    """So that task=report writes the same files again."""
    sweeper = yaml.safe_load((CONFIG_DIR / "hydra/sweeper/grids.yaml").read_text())
    task = yaml.safe_load((CONFIG_DIR / "task/report.yaml").read_text())["task"]
    assert sweeper["report"] == {key: value for key, value in task.items() if key != "_target_"}


def test_options_of_the_report_are_checked_before_anything_starts(tmp_path):
    said = call("-m", *SMOKE, "seed=0,1", "hydra.sweeper.report.transform=log", cwd=tmp_path, reports=True).error
    assert said.startswith("hydra.sweeper.report.transform: got 'log'")
    assert not (tmp_path / "runs").exists()


def test_a_sweep_that_tests_nothing_has_no_report(tmp_path):
    sweep = ("-m", *SMOKE, "seed=0,1", "data.stage=tune")
    assert call(*sweep, cwd=tmp_path, reports=True).code == 0
    assert not (tmp_path / "runs" / "report").exists()


def test_a_report_that_cannot_be_written_hides_nothing(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "report").write_text("in the way")
    outcome = call("-m", *SMOKE, "optimizer=sgd", "optimizer.lr=0.1,1e30", cwd=tmp_path, reports=True)
    assert "1 of the sweep's 2 points failed" in outcome.error
    assert "no report: cannot write " in outcome.error
    assert (tmp_path / "runs" / "report").read_text() == "in the way"
