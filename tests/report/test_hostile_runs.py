"""Runs whose files somebody forged: each is left out in one line, and the report of the others comes."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest

from boards import options
from made_up_runs import write_attempt, write_run
from nested import paths, replaced
from peft_vision.report.choose import Setting
from peft_vision.report.collect import collect
from peft_vision.report.comparison import compare
from peft_vision.report.curves import curves

DEEP: Any = 1
for _ in range(2000):
    DEEP = [DEEP]
VALUES = {
    "null": None,
    "a text": "x",
    "a megabyte": "x" * 2**20,
    "half a character": "\ud83d",
    "a number": 3,
    "a negative number": -3,
    "a large number": 10**18,
    "a huge number": 10**30,
    "a large float": 1e308,
    "nan": math.nan,
    "minus infinity": -math.inf,
    "infinity": math.inf,
    "a list": [],
    "an object": {},
    "a deep one": DEEP,
}


def whole(runs: Path) -> Path:
    shifts = {"fog": 0.3, "snow": {"a": 0.25, "b": 0.5}}
    curve = {0.0: (0.1, 0.2), 1.0: (0.6, 0.4)}
    costs = {"peak_mib": 3.0, "train_seconds": 2.0}
    return write_run(
        runs, method="lora", ood=shifts, curve=curve, alpha=1.0, choice={"rule": "by hand"}, group="g", **costs
    )


@pytest.mark.parametrize("file", ["result.json", "ood.json", "choice.json"])
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_any_value_in_any_place_leaves_the_run_out_or_harms_nothing(value, file, tmp_path):
    write_run(tmp_path)
    folder = whole(tmp_path)
    record = json.loads((folder / file).read_text())
    refused = 0
    places = paths(record)
    for place in places:
        text = json.dumps(replaced(record, place, "HERE")).replace('"HERE"', "%s") % _json(value)
        (folder / file).write_text(text)
        finished, others = collect(tmp_path)
        assert [run.method for run in finished if run.folder != folder] == ["full"]
        for run in others:
            assert run.reason.isprintable(), place
            assert len(run.reason) < 500, place
        refused += len(others)
    assert refused > len(places) / 5


def _json(value: Any) -> str:
    return "[" * 2000 + "1" + "]" * 2000 if value is DEEP else json.dumps(value)


def test_pipes_and_devices_are_named_at_once(tmp_path):
    write_run(tmp_path)
    files = ("result.json", "ood.json", "choice.json", "failed.json", "metrics.jsonl", "config.yaml")
    for number, name in enumerate(files):
        folder = whole(tmp_path / f"{number}")
        if name in ("failed.json", "config.yaml"):
            (folder / "result.json").rename(folder / "state.pt")
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero" / "result.json").symlink_to("/dev/zero")
    began = time.monotonic()
    finished, others = collect(tmp_path)
    assert time.monotonic() - began < 5
    reasons = {run.folder: run.reason for run in others}
    assert sum("should be a regular file" in reason for reason in reasons.values()) == 5, reasons  # with zero, below
    assert reasons["zero"] == "result.json: cannot be read (a device, should be a regular file)"
    assert len(finished) + len(others) == len(files) + 2


@pytest.mark.parametrize("error", ["", "\n", "\x1b[2J" * 1000, 3, None])
def test_the_reason_of_a_failure_may_be_anything(error, tmp_path):
    write_run(tmp_path)
    (write_attempt(tmp_path, seed=1, error="x") / "failed.json").write_text(json.dumps({"error": error}))
    _, (other,) = collect(tmp_path)
    assert other.reason.isprintable()
    assert len(other.reason) < 500


def test_a_config_names_no_module_to_import_and_no_class_of_another_kind(tmp_path):
    targets = (
        "antigravity.Flight",
        "peft_vision.head.base.Head",
        "pathlib.Path",
        "peft_vision.core.config.ConfigError",
    )
    for seed, target in enumerate(targets):
        write_run(tmp_path, seed=seed, config={"method": {"_target_": target, "rank": 3}})
    write_run(tmp_path, seed=9)
    finished, others = collect(tmp_path)
    assert [run.seed for run in finished] == [9]
    assert all(run.reason.startswith("config.method") for run in others)


def test_a_name_that_tries_everything_makes_a_report(tmp_path):
    name = "=a\x1b[2J\n=1|$x$\\input{/etc/passwd}<script>../../%"
    setting = {"optimizer": {"_target_": "peft_vision.optimizer.base.AdamW", "lr": name, "\x1b[2J": 1e-320}}
    for seed in (0, 1):
        folder = whole(tmp_path / f"{seed}")
        record: dict[str, Any] = json.loads((folder / "result.json").read_text())
        record["choices"] |= {"method": name, "data": name[:90], "backbone": name[:90]}
        record["data"] |= {"source": name * 30, "group": name}
        record["config"] |= setting
        record["seed"] = seed
        (folder / "result.json").write_text(json.dumps(record))
        folder.rename(folder.with_name("caf\udce9\n\x1b[2J=1"))
    report = compare([tmp_path], tmp_path / "out", options())
    written = {path.name: path.read_text() for path in (tmp_path / "out").iterdir() if path.suffix != ".png"}
    assert ",'=a =1|" in written["leaderboard.csv"]
    assert "\\input" not in written["leaderboard.tex"]
    assert not any("\x1b" in text for text in written.values())
    assert "<script>../.." not in report.page.read_text()
    assert {path.parent for path in report.pictures.values()} == {tmp_path / "out"}


R2 = {"name": "r2", "higher_is_better": True, "is_fraction": False}


@pytest.mark.parametrize(
    ("name", "value"),
    [("val/r2", math.nan), ("test/r2", math.inf), ("test/mean_iou", 71.2), ("val/pixel_accuracy", math.nan)],
)
def test_a_score_that_none_can_have_leaves_the_run_out(name, value, tmp_path):
    write_run(tmp_path)
    path = write_run(tmp_path, seed=1) / "result.json"
    record = json.loads(path.read_text())
    metrics = {"val/r2": 0.5, "test/r2": 0.5}
    path.write_text(json.dumps({**record, "chosen_by": R2, "metrics": metrics}))
    assert [run.metric.name for run in collect(tmp_path)[0]] == ["accuracy", "r2"]
    path.write_text(json.dumps({**record, "chosen_by": R2, "metrics": {**metrics, name: value}}))
    _, (other,) = collect(tmp_path)
    assert other.reason.startswith(f"{name} is {value:g}, should be ")


def test_runs_of_an_infinite_setting_and_of_scores_without_a_value_make_a_report(tmp_path):
    """An earlier version took trainer.clip_norm=inf."""
    trainer = {"_target_": "Trainer", "epochs": 3, "eval_batch_size": 256}
    for lr, clip_norm in ((0.1, math.inf), (0.2, 1.0)):
        folder = write_run(tmp_path, lr=lr, config={"trainer": {**trainer, "clip_norm": clip_norm}})
        record = json.loads((folder / "result.json").read_text())
        record["metrics"]["test/feature_distance"] = math.nan
        (folder / "result.json").write_text(json.dumps(record))
    compare([tmp_path], tmp_path / "out", options())
    (found,) = json.loads((tmp_path / "out" / "table.json").read_text())["comparisons"]
    tried = found["rows"][0]["tried"]
    assert {setting["setting"]["trainer.clip_norm"] for setting in tried} == {None, 1.0}
    assert found["rows"][0]["metrics"]["test/feature_distance"] == {"mean": None, "std": None, "values": [None]}


def test_a_line_of_metrics_that_is_none_is_no_epoch(tmp_path):
    folder = write_run(tmp_path, epochs=[(0.5, 0.4), (0.3, 0.6)])
    wild = [{"epoch": 10**30}, {"epoch": -1}, {"epoch": 3, "train/loss": 1e308}, {"epoch": True}, {"epoch": "4"}]
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(f"{json.dumps({'lr': 0.1, 'val/accuracy': 0.5, **row})}\n" for row in wild)
        file.write("[" * 5000 + "\n")
    (run,), _ = collect(tmp_path)
    found = curves(Setting((run,), {}))
    assert (found["train/loss"].epochs, found["val/accuracy"].epochs) == ((1, 2), (1, 2, 3))
