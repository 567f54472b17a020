"""What a run does in each stage, as its files tell."""

import json
from pathlib import Path
from typing import Any

import pytest

from command import SMOKE, call, run_folder
from digit_folders import DATA, write_digits

SOLVED = ("optimizer=lbfgs", "optimizer.C=[0.1,1]")


def result(*arguments: str, cwd: Path) -> dict[str, Any]:
    outcome = call(*SMOKE, *arguments, cwd=cwd)
    assert (outcome.code, outcome.err) == (0, "")
    return json.loads((run_folder(cwd / "runs") / "result.json").read_text())


def scored(found: dict[str, Any]) -> set[str]:
    return {name.removesuffix("/accuracy") for name in found["metrics"] if name.endswith("/accuracy")}


PROBED = ("method=lp_ft", "probe=lbfgs", "probe.C=[0.1,1]")


@pytest.mark.parametrize(
    ("more", "parts"),
    [((), {"val"}), (PROBED, {"val", "probe/val"}), (SOLVED, {"val"})],
    ids=["linear", "lp_ft", "lbfgs"],
)
def test_a_setting_that_is_tuned_leaves_the_test_images_alone(more, parts, tmp_path):
    found = result("data.stage=tune", *more, cwd=tmp_path)
    assert scored(found) == parts
    assert found["test_reads"] == 0
    assert set(found["data"]["images"]) == {"train", "val"}
    assert not {split.partition(",")[0] for split in found["store"]["splits"]} - {"train", "val"}
    assert set(found["backbone_images"]) == {"train", "val"}


ONE_PROBE = ("method=lp_ft", "probe=lbfgs", "probe.C=[1]")


@pytest.mark.parametrize(
    ("more", "parts"), [((), {"test"}), (ONE_PROBE, {"test", "probe/test"})], ids=["linear", "lp_ft"]
)
def test_what_was_chosen_trains_on_the_validation_images_and_is_tested(more, parts, tmp_path):
    found = result("data.stage=final", *more, cwd=tmp_path)
    assert scored(found) == parts
    assert found["data"]["images"] == {"train": 40, "test": 40}


def test_the_stages_are_runs_of_their_own_and_say_what_they_left_alone(tmp_path):
    for stage in ("all", "tune", "final"):
        outcome = call(*SMOKE, f"data.stage={stage}", cwd=tmp_path)
        assert outcome.code == 0
        assert ("left alone while settings are tuned" in outcome.out) == (stage == "tune")
        assert ("test (40 images)" in outcome.out) == (stage != "tune")
    assert len(list((tmp_path / "runs").glob("*/result.json"))) == 3


def test_peeking_chooses_by_the_test_images_and_says_so(tmp_path):
    outcome = call(*SMOKE, "data.stage=peek", "trainer.keep=best", "trainer.epochs=5", cwd=tmp_path)
    assert "val       are the test images (data.stage=peek): what they choose is no honest figure" in outcome.out
    folder = run_folder(tmp_path / "runs")
    found = json.loads((folder / "result.json").read_text())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert found["data"]["images"] == {"train": 40, "val": 40, "test": 40}
    assert found["metrics"]["test/accuracy"] == max(row["val/accuracy"] for row in rows)
    assert found["metrics"]["test/accuracy"] == found["metrics"]["val/accuracy"]
    assert found["test_reads"] == 5 + 1  # after each epoch, and in the end


def test_nothing_out_of_distribution_is_scored_while_settings_are_tuned(tmp_path):
    root = write_digits(tmp_path)
    arguments = (*DATA, "ood=image_folder", "ood.image_folder.path={inverted: inverted}", "interpolation=wise_ft")
    outcome = call("experiment=smoke", "method=full", *arguments, "data.stage=tune", cwd=root)
    assert (outcome.code, outcome.err) == (0, "")
    assert list(root.rglob("ood.json")) == []


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (("trainer.keep=best",), "trainer.keep: best chooses an epoch by validation, and data.stage=final trains on"),
        (SOLVED, "optimizer: 2 settings to choose from by validation, and data.stage=final trains on"),
        (("method=lp_ft", "probe=grid"), "probe: 40 settings to choose"),
        (("interpolation=wise_ft",), "interpolation: chooses alpha by validation"),
    ],
    ids=["epoch", "solver", "probe", "alpha"],
)
def test_what_chooses_by_validation_is_refused_where_that_is_trained_on(more, complaint, tmp_path):
    assert call(*SMOKE, "data.stage=final", *more, cwd=tmp_path).error.startswith(complaint)
    assert not (tmp_path / "runs").exists()


def test_a_saved_run_is_evaluated_on_any_split_of_any_stage(trained, tmp_path):
    arguments = ("task=evaluate", f"run={trained}", f"out={tmp_path}", "data=digits", "data.train_size=40")
    assert call(*arguments, "data.stage=tune", "task.split=val", cwd=tmp_path).code == 0
    error = call(*arguments, "data.stage=tune", cwd=tmp_path).error
    assert error.startswith("task.split: got 'test', but these data have none; data.stage=all")
