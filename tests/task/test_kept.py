"""A run keeps what it predicts for each picture: what evaluate and predict say later of the same ones."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from command import call, results, run_folder
from digit_folders import DATA, write_digits
from peft_vision.runs.predictions import PREDICTIONS, read_predictions
from peft_vision.runs.run import Run
from peft_vision.runs.run_records import Result
from peft_vision.task.mirrored import tell_classes
from peft_vision.tracker.trackers import Log

BEST = (*DATA, "trainer.epochs=4", "trainer.keep=best")
METHODS = ("linear", "vpt_deep")  # one that reads stored features, one that does not


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    folder = write_digits(tmp_path_factory.mktemp("kept"))
    for method in METHODS:
        outcome = call(*BEST, f"method={method}", f"runs={method}", cwd=folder)
        assert (outcome.code, outcome.err) == (0, "")
    return folder


def rows(run: Path) -> list[dict]:
    return parquet.read_table(run / PREDICTIONS).to_pylist()


@pytest.mark.parametrize("method", METHODS)
def test_predictions_are_of_the_kept_epoch_and_those_that_predict_and_evaluate_make(method, here):
    run = run_folder(here / method)
    result, found = Result.read(run), rows(run)
    read = read_predictions(run, result.predictions, result.data.images)
    for split, kept in read.items():
        assert np.mean(kept.truth == kept.prediction) == pytest.approx(result.metrics[f"{split}/accuracy"])
        assert kept.loss.mean() == pytest.approx(result.metrics[f"{split}/loss"], rel=1e-6)
    assert call("task=predict", f"run={run}", "images=digits/test", "out=labels", cwd=here).code == 0
    with (here / "labels/predictions.csv").open(newline="") as file:
        labelled = {row["file"]: row for row in csv.DictReader(file)}
    tested = [row for row in found if row["split"] == "test"]
    assert len(tested) == len(labelled)
    for row in tested:
        said = labelled["/".join(Path(row["path"]).parts[-2:])]
        assert (said["class"], Path(row["path"]).parent.name) == (row["prediction"], row["truth"])
        assert [float(said[str(label)]) for label in range(5)] == pytest.approx(
            row["probabilities"], rel=1e-3, abs=1e-6
        )
    out = here / f"{method}-scores"
    outcome = call("task=evaluate", f"run={run}", f"out={out}", cwd=here)
    assert (outcome.code, outcome.err) == (0, "")
    (path,) = out.glob("*.parquet")
    scored = parquet.read_table(path).to_pylist()
    assert [row["path"] for row in scored] == [row["path"] for row in tested]
    assert [row["prediction"] for row in scored] == [row["prediction"] for row in tested]
    assert np.allclose([row["probabilities"] for row in scored], [row["probabilities"] for row in tested], atol=1e-5)
    (worst,) = [line for line in outcome.out.splitlines() if line.startswith("worst")]
    assert worst.endswith("(% F1)")
    with Image.open(path.with_suffix(".png")) as sheet:
        assert sheet.height > 500


def test_keeping_costs_no_pass_and_changes_no_result_and_is_off_by_a_switch(here):
    arguments = (*BEST, "method=linear", "features.use=never")  # so that every pass is counted
    for runs, option in {"on": (), "off": ("trainer.keep_predictions=false",)}.items():
        assert call(*arguments, f"runs={runs}", *option, cwd=here).code == 0
    run = run_folder(here / "off")
    kept, bare = (json.loads((run_folder(here / runs) / "result.json").read_text()) for runs in ("on", "off"))
    assert not (run / PREDICTIONS).exists()
    assert bare["identity"] == kept["identity"]
    assert bare["metrics"] == kept["metrics"]
    assert bare["backbone_images"] == kept["backbone_images"]


def test_a_process_that_dies_between_predictions_and_result_leaves_a_run_that_is_finished_later(here, monkeypatch):
    def dies(*_) -> None:
        raise KeyboardInterrupt

    arguments = (*BEST, "method=linear", "runs=dies")
    with monkeypatch.context() as patch:
        patch.setattr(Run, "write_result", dies)
        assert call(*arguments, cwd=here).code == 1
    (file,) = (here / "dies").glob(f"*/{PREDICTIONS}")
    assert not results(here / "dies")
    file.write_bytes(file.read_bytes()[:100])  # and what it wrote is damaged
    assert call(*arguments, cwd=here).code == 0
    assert rows(file.parent) == rows(run_folder(here / "linear"))


def test_a_tracker_gets_each_class_and_which_are_taken_for_which(here):
    run = run_folder(here / "linear")
    result = Result.read(run)
    found = read_predictions(run, result.predictions, result.data.images)["test"]
    told = {}

    class Heard(Log):
        def table(self, name, columns, rows) -> None:
            told[name] = [dict(zip(columns, row, strict=True)) for row in rows]

    tell_classes(Heard(), found)
    assert [row["class"] for row in told["test/classes"]] == list(found.classes)
    hits = sum(row["count"] for row in told["test/confusion"] if row["true"] == row["predicted"])
    assert hits == np.sum(found.truth == found.prediction)
    assert all(row["precision"] is None or 0 <= row["precision"] <= 1 for row in told["test/classes"])
