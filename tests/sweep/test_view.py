"""What a person sees of a sweep."""

import json
import os
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from made_up_runs import made_up_result
from peft_vision.core.config import ConfigError
from peft_vision.objective.base import ACCURACY
from peft_vision.runs.run import Run
from peft_vision.sweep import view
from peft_vision.sweep.point import Point, PointResult
from peft_vision.sweep.view import View, _last_row

EPOCHS = 10


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """A list with the time in it."""
    seconds = [100.0]
    monkeypatch.setattr(view, "monotonic", lambda: seconds[0])
    return seconds


@pytest.fixture
def points(tmp_path) -> list[Point]:
    """Four, whose runs have folders."""
    return [point(tmp_path / str(seed), f"seed={seed}") for seed in range(4)]


def point(folder: Path, label: str) -> Point:
    folder.mkdir()
    objective = SimpleNamespace(metric=ACCURACY)
    experiment = SimpleNamespace(run=Run(folder), trainer=SimpleNamespace(epochs=EPOCHS), objective=objective)
    return Point((label,), label, experiment, retry=False)


def row(sweep_point: Point, epoch: int, accuracy: float, **others: float | str) -> None:
    """One more line of its metrics."""
    with (sweep_point.experiment.run.folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": epoch, **others, "val/accuracy": accuracy}) + "\n")


def done(sweep_point: Point, val: float, test: float) -> PointResult:
    return PointResult(sweep_point, made_up_result(metrics={"val/accuracy": val, "test/accuracy": test}), None)


def drawn(shown: View) -> list[str]:
    console = Console(file=StringIO(), width=100)
    console.print(shown._table())
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_without_a_terminal_each_run_that_ends_is_a_line(points, clock, capsys):
    with View(points) as shown:
        shown.ended(0, done(points[0], 0.5, 0.25), skipped=True)
        shown.started(1)
        clock[0] += 10
        shown.ended(1, done(points[1], 0.75, 0.7), skipped=False)
        shown.started(2)
        clock[0] += 5
        shown.ended(2, PointResult(points[2], None, ConfigError("no memory\nbuy some")), skipped=False)
        shown.started(3)
        shown.ended(3, PointResult(points[3], None, None), skipped=False)
    assert capsys.readouterr().out.splitlines() == [
        "run 1/4  before  seed=0  val 50.00 %  test 25.00 %",
        "run 2/4  done    seed=1  val 75.00 %  test 70.00 %  0:10  (0:20 left)",
        "run 3/4  failed  seed=2  no memory  0:05  (0:08 left)",
        "run 4/4  done    seed=3    0:00",
    ]


def test_the_figures_say_what_they_count(points, clock, capsys):
    """A batch of a search that is one run needs no figures beside the trial's own."""
    with View(points, of="the batch") as shown:
        shown.ended(0, done(points[0], 0.5, 0.25), skipped=False)
        assert drawn(shown)[0].startswith("1 of 4 runs of the batch done, ")
    with View(points[:1], of="the batch") as shown:
        shown.ended(0, done(points[0], 0.5, 0.25), skipped=False)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("run 1/4 of the batch  done    seed=0  ")
    assert second.startswith("done    seed=0  ")


def test_the_table_shows_what_is_done_what_runs_the_best_and_the_time_left(points, clock):
    with View(points) as shown:
        shown.started(0)
        shown.started(1)
        clock[0] += 60
        shown.ended(0, done(points[0], 0.5, 0.25), skipped=False)
        shown.started(2)
        row(points[1], 1, 0.3)
        row(points[1], 5, 0.625)
        assert drawn(shown) == [
            "1 of 4 runs done, 2 running, best val 50.00 % (seed=0), 1:40 left",  # 1.5 of 4 runs in a minute
            "seed=1  epoch 5/10  val 62.50 %  1:00",
            "seed=2  begins                   0:00",
        ]
        shown.ended(1, PointResult(points[1], None, ConfigError("no")), skipped=False)
        assert drawn(shown)[0] == "1 of 4 runs done, 1 failed, 1 running, best val 50.00 % (seed=0), 1:00 left"


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ({"epoch": 5, "lr": 0.1, "phase": "probe"}, "epoch 5/20"),
        ({"epoch": 15, "lr": 0.1, "phase": "tune"}, "epoch 15/20"),
        ({"epoch": 25, "lr": 0.1, "phase": "last"}, "epoch 25/30"),
        ({"epoch": 4, "C": 0.1, "phase": "probe"}, "epoch 10/20"),  # the fourth setting of a solver
        ({"epoch": 50, "C": 0.1}, "epoch 50/50"),
    ],
)
def test_the_phases_of_a_run_are_counted_together(last, said, points, clock):
    row(points[0], accuracy=0.5, **last)
    epoch, total = map(int, said.removeprefix("epoch ").split("/"))
    with View(points) as shown:
        shown.started(0)
        assert shown._standing(0) == (epoch / total, f"{said}  val 50.00 %")


def test_a_line_that_is_being_written_is_passed_over(points, clock):
    row(points[0], 3, 0.5)
    with (points[0].experiment.run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "val/acc')
    with View(points) as shown:
        shown.started(0)
        assert drawn(shown)[1].startswith("seed=0  epoch 3/10")


def test_many_that_run_are_counted(tmp_path, clock):
    many = [point(tmp_path / str(number), f"seed={number}") for number in range(30)]
    with View(many) as shown:
        for number in range(30):
            shown.started(number)
        lines = drawn(shown)
    assert len(lines) == 14
    assert lines[-1] == "and 18 more"


def test_labels_are_no_markup(tmp_path, clock, capsys):
    odd = point(tmp_path / "odd", "method.parts=[lora,vqt]")
    with View([odd]) as shown:
        shown.started(0)
        assert drawn(shown)[1].startswith("method.parts=[lora,vqt]")
        shown.ended(0, done(odd, 0.5, 0.5), skipped=False)
    assert "method.parts=[lora,vqt]" in capsys.readouterr().out


def test_on_a_terminal_the_table_is_there_while_runs_are_and_gone_afterwards(points, monkeypatch):
    screen = StringIO()
    monkeypatch.setattr(view, "terminal", lambda: Console(file=screen, force_terminal=True, width=100))
    with View(points) as shown:
        shown.ended(0, done(points[0], 0.5, 0.25), skipped=True)
        assert screen.getvalue() == ""
        shown.started(1)
        shown.ended(1, done(points[1], 0.5, 0.25), skipped=False)
    written = screen.getvalue()
    assert "1 of 4 runs done, 1 running" in written
    assert "run 2/4  done    seed=1" in written
    assert written.rstrip().endswith("\x1b[2K")  # the table is wiped out


@pytest.mark.parametrize(
    "text",
    [
        "[1]",
        "3",
        "{}",
        '{"epoch": "3"}',
        '{"epoch": 1e400}',
        '{"epoch": -1}',
        '{"epoch": 1' + "0" * 30 + "}",
        "[" * 9999,
    ],
)
def test_a_line_that_tells_no_epoch_is_passed_over(text, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"epoch": 2}}\n{text}\n')
    assert _last_row(path) == {"epoch": 2}
    path.write_text(text)
    assert _last_row(path) is None


def test_metrics_that_are_no_file_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    assert _last_row(tmp_path / "metrics.jsonl") is None
