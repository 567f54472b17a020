"""What a sweep does before its first run, and what it leaves out."""

import json
import re
from pathlib import Path

import pytest

from command import SMOKE, call, results
from peft_vision.task import train

SWEEP = ("-m", *SMOKE, "optimizer=sgd")


@pytest.fixture
def trainings(monkeypatch) -> list[int]:
    """The seed of each run that begins to train."""
    begun = []
    original = train._train

    def counted(experiment, run, here, **options):
        begun.append(experiment.seed)
        return original(experiment, run, here, **options)

    monkeypatch.setattr(train, "_train", counted)
    return begun


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("optimizer.lr=0.1,-1,0.2", "  optimizer.lr=-1: optimizer.lr: got -1"),
        ("data.val_fraction=0.1,1.5", "  data.val_fraction=1.5: data.val_fraction: got 1.5"),
        ("trainer.epochs=1,two", "  trainer.epochs=two: trainer.epochs: got 'two'"),
        ("data.train_size=40,2", "  data.train_size=2: "),  # known only by a look at the data
        ("backbone.img_size=null,17", "  backbone.img_size=17: backbone.img_size: "),
        ("optimizer=sgd,sgdd", "  optimizer=sgdd: optimizer: no option 'sgdd'"),
    ],
)
def test_an_invalid_value_within_a_grid_is_found_before_anything_starts(wrong, said, tmp_path, trainings):
    outcome = call(*SWEEP, wrong, cwd=tmp_path)
    first, second = outcome.error.splitlines()
    total = wrong.count(",") + 1
    assert first == f"1 of the sweep's {total} points are wrong, and nothing was started"
    assert second.startswith(said)
    assert trainings == []
    assert results(tmp_path) == []


def test_points_with_the_same_fault_are_one_line(tmp_path):
    said = call(*SWEEP, "optimizer.lr=0.1,-1", "seed=0,1,2,3,4", cwd=tmp_path).error.splitlines()
    assert said[0] == "5 of the sweep's 10 points are wrong, and nothing was started"
    assert len(said) == 2
    assert said[1].startswith("  optimizer.lr=-1 seed=0; optimizer.lr=-1 seed=1; optimizer.lr=-1 seed=2 and 2 more: ")


def test_a_fault_of_all_points_is_said_as_for_one_run(tmp_path):
    sweep = call("-m", *SMOKE, "optimizer.lr=-1", "seed=0,1", cwd=tmp_path).error
    assert sweep == call(*SMOKE, "optimizer.lr=-1", cwd=tmp_path).error


def test_a_sweep_again_shows_its_results_without_a_run(tmp_path, trainings):
    first = call(*SWEEP, "seed=0,1", cwd=tmp_path)
    again = call(*SWEEP, "seed=0,1", cwd=tmp_path)
    assert (first.code, again.code, trainings) == (0, 0, [0, 1])
    lines = [line for line in again.out.splitlines() if "/2  before  seed=" in line]
    shown = [json.loads(path.read_text())["metrics"]["test/accuracy"] for path in results(tmp_path)]
    assert [f"test {100 * accuracy:.2f} %" in line for accuracy, line in zip(shown, lines, strict=True)] == [True] * 2


def test_a_sweep_can_be_extended(tmp_path, trainings):
    call(*SWEEP, "seed=0,1", cwd=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in results(tmp_path)}
    assert call(*SWEEP, "seed=3,1,0,2", cwd=tmp_path).code == 0  # in any order
    assert trainings == [0, 1, 3, 2]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_two_points_that_are_one_run_are_run_once(tmp_path, trainings):
    outcome = call(*SWEEP, "optimizer.lr=0.1,1e-1,0.10", "trainer.save_seconds=1,2", cwd=tmp_path)
    assert (outcome.code, trainings) == (0, [0])
    (line,) = re.findall(r"^run +\d+/.*", outcome.out, re.M)
    assert line.startswith("run 1/1  done    trainer.save_seconds=1 ")
    assert "left)" not in line


def test_runs_that_cannot_be_written_are_said_before_a_process_is_started(tmp_path):
    (tmp_path / "taken").touch()
    said = call(*SWEEP, "seed=0,1", "runs=taken", "hydra/launcher=pool", cwd=tmp_path).error.splitlines()
    assert len(said) == 2
    assert said[0].startswith(f"cannot write {tmp_path}/taken/linear-vit_micro-digits-s0-")
    assert said[1] == "set runs=FOLDER to a folder that can be made and written"


def test_a_run_by_itself_counts_for_the_sweep(tmp_path, trainings):
    assert call(*SMOKE, "optimizer=sgd", "seed=1", cwd=tmp_path).code == 0
    assert call(*SWEEP, "seed=0,1", cwd=tmp_path).code == 0
    assert trainings == [1, 0]


def test_a_sweep_of_another_task_runs_each_point(tmp_path):
    call(*SWEEP, "seed=0,1", cwd=tmp_path)
    runs = ",".join(str(path.parent) for path in results(tmp_path))
    outcome = call("-m", "task=evaluate", f"run={runs}", "data=digits", "task.split=val", cwd=tmp_path)
    assert outcome.code == 0, outcome
    assert len(list(Path(tmp_path).rglob("evaluations/*.json"))) == 2
