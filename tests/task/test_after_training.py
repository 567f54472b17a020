"""Nothing that a run does once it is trained can cost it its result."""

import json
import subprocess
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from torch import nn

from command import SMOKE, call, results, run_folder
from made_up_runs import made_up_result
from peft_vision.core import environment as module
from peft_vision.core.config import ConfigError
from peft_vision.core.environment import environment, git_commit, most_mib, peak_mib
from peft_vision.head.base import Head
from peft_vision.method.selection import head_columns
from peft_vision.runs.run import Run
from peft_vision.runs.run_records import ShiftScores
from peft_vision.task import session, shown, train
from peft_vision.task.shown import are_drawn, told
from peft_vision.tracker.trackers import Log, NoTracker

CPU = torch.device("cpu")


def failing(error: Exception):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file or directory", "git"),
        PermissionError(13, "Permission denied"),
        subprocess.TimeoutExpired("git", 1),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "x"),
    ],
    ids=type,
)
def test_where_git_does_not_answer_there_is_no_commit(error, monkeypatch):
    monkeypatch.setattr(subprocess, "run", failing(error))
    assert git_commit() is None


def test_with_no_git_on_the_path_there_is_no_commit(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment(CPU, 1)["git_commit"] is None


def test_a_package_under_another_name_has_no_version(monkeypatch):
    monkeypatch.setattr(module, "version", failing(PackageNotFoundError("pillow")))
    monkeypatch.setattr(module.platform, "platform", failing(OSError()))
    found = environment(CPU, 1)
    assert {found[key] for key in (*module.PACKAGES, "platform")} == {None}
    assert found["python"]


def test_a_system_that_tells_no_peak_tells_none(monkeypatch):
    monkeypatch.setattr(Path, "read_text", failing(PermissionError()))
    assert peak_mib(CPU) is None
    assert most_mib([None, 3.0, 2.0]) == 3.0
    assert most_mib([None, None]) is None


class Breaking(Log):
    """A mirror that breaks."""

    metrics = summary = failing(ConnectionError("gone"))


class BreakingTracker(NoTracker):
    """Whose log, whatever else, cannot even be closed."""

    def open(self, **_):
        return self

    def __enter__(self) -> Log:
        return Breaking()

    __exit__ = failing(ConnectionError("gone for good"))


def test_a_run_whose_surroundings_all_fail_has_its_result(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(module, "version", failing(PackageNotFoundError("pillow")))
    monkeypatch.setattr(session, "peak_mib", lambda _: None)
    monkeypatch.setattr(train, "print_summary", failing(UnicodeEncodeError("ascii", "x", 0, 1, "no such letter")))
    monkeypatch.setattr(NoTracker, "open", BreakingTracker.open)
    monkeypatch.setattr(NoTracker, "__enter__", BreakingTracker.__enter__, raising=False)
    monkeypatch.setattr(NoTracker, "__exit__", BreakingTracker.__exit__, raising=False)
    outcome = call(*SMOKE, cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.count("tracker   ConnectionError: gone; ") == 1
    assert "cannot show the result: UnicodeEncodeError" in outcome.out
    result = json.loads(results(tmp_path)[0].read_text())
    assert (result["peak_mib"], result["environment"]["git_commit"]) == (None, None)
    assert not (run_folder(tmp_path / "runs") / "state.pt").exists()
    monkeypatch.undo()
    assert "already finished" in call(*SMOKE, cwd=tmp_path).out


@pytest.mark.parametrize(
    ("where", "name"), [(session, "write_adapter"), (session, "environment"), (session, "peak_mib")]
)
def test_what_cannot_be_written_is_known_before_the_training(where, name, tmp_path, monkeypatch):
    monkeypatch.setattr(where, name, failing(ArithmeticError("no")))
    monkeypatch.setattr(session, "fit_phases", failing(AssertionError("trained")))
    with pytest.raises(ArithmeticError):
        call(*SMOKE, cwd=tmp_path)


def test_a_tracker_without_a_home_is_refused_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(NoTracker, "open", BreakingTracker.open)
    monkeypatch.setattr(
        NoTracker, "__enter__", failing(RuntimeError("Could not determine home directory.")), raising=False
    )
    monkeypatch.setattr(session, "fit_phases", failing(AssertionError("trained")))
    assert call(*SMOKE, cwd=tmp_path).error.startswith("tracker: it keeps files in a home folder")


class Cosine(nn.Module):
    """A head without a linear layer."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.classes = nn.Parameter(torch.randn(num_classes, width))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, width) to (B, num_classes)."""
        return nn.functional.normalize(features, dim=1) @ nn.functional.normalize(self.classes, dim=1).T


def test_a_head_without_a_linear_layer_has_a_result(tmp_path, monkeypatch):
    monkeypatch.setattr(Head, "build", lambda _, width, num_classes: nn.Sequential(Cosine(width, num_classes)))
    assert call(*SMOKE, cwd=tmp_path).code == 0
    assert json.loads(results(tmp_path)[0].read_text())["features"] == 128


def test_features_are_not_chosen_by_a_head_that_has_no_columns(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="Cosine has none"):
        head_columns(Cosine(3, 2))
    monkeypatch.setattr(Head, "build", lambda _, width, num_classes: nn.Sequential(Cosine(width, num_classes)))
    monkeypatch.setattr(session, "fit_phases", failing(AssertionError("trained")))
    outcome = call(*SMOKE, "method=head2toe", cwd=tmp_path)
    assert "features are chosen by the columns of a linear layer" in outcome.error


def test_a_value_that_json_does_not_know_is_written_all_the_same(tmp_path):
    Run(tmp_path).write_result(made_up_result(config={"data": {}, "mine": {1.5: torch.float32}}))
    assert json.loads((tmp_path / "result.json").read_text())["config"]["mine"] == {"1.5": "torch.float32"}


def test_what_cannot_be_shown_is_said_but_a_reader_that_left_is_no_fault(tmp_path, caplog):
    told("the table", failing(ValueError("too wide")), tmp_path)
    assert f"cannot show the table: ValueError: too wide; all of it is in {tmp_path}" in caplog.text
    with pytest.raises(BrokenPipeError):
        told("the table", failing(BrokenPipeError()), tmp_path)


def test_pictures_are_drawn_once_for_each_record_and_again_where_one_is_missing(tmp_path):
    scored = {"splits": {}, "metrics": {"ood/a/accuracy": 0.5}, "images": {"a": 3}, "interpolation": None}
    run, record = Run(tmp_path), ShiftScores.model_validate(scored)
    assert not are_drawn(record, run)
    (tmp_path / "ood-scatter.png").touch()
    assert are_drawn(record, run)  # by version 0.1.0
    assert not are_drawn(record.model_copy(update={"pictures": None}), run)  # begun, and killed
    of = {"of": shown._mark(record), "files": ["ood-scatter.png"]}
    drawn = record.model_copy(update={"pictures": of})
    assert are_drawn(drawn, run)
    assert not are_drawn(drawn.model_copy(update={"metrics": {"ood/a/accuracy": 0.6}}), run)
    (tmp_path / "ood-scatter.png").unlink()
    assert not are_drawn(drawn, run)
