"""`trainer.keep=best`: a phase ends in the weights of the epoch that validation liked best."""

import copy
import json
from pathlib import Path

import pytest
import torch

from command import call, run_folder
from peft_vision.training.train_state import TrainState
from peft_vision.training.trainer import Trainer
from shipped import adapted
from test_resume import Life, live, metrics
from test_trainer import assert_same_weights, fit

# far too fast: all images soon are of one class, whichever, and a tenth of those that validate are of each
COLLAPSING = (
    "experiment=smoke",
    "method=bitfit",
    "optimizer=sgd",
    "optimizer.lr=1",
    "data.val_fraction=0.5",
    "trainer.epochs=5",
    "trainer.save_seconds=0",
    "trainer.keep=best",
)


@pytest.fixture
def judged(monkeypatch):
    """Validation then likes the epochs as much as it is told."""

    def judge(accuracies: list[float], losses: list[float] | None = None) -> None:
        left = iter(zip(accuracies, losses or [1.0] * len(accuracies), strict=True))
        names = ("val/accuracy", "val/loss")
        monkeypatch.setattr(Trainer, "evaluate", lambda *_, **__: dict(zip(names, next(left), strict=True)))

    return judge


@pytest.mark.parametrize(
    ("accuracies", "losses"),
    [
        ([0.5, 0.8, 0.6, 0.7], None),
        ([0.5, 0.8, 0.8, 0.8], None),
        ([0.8, 0.8, 0.8, 0.7], [1.1, 0.9, 0.9, 0.1]),
        ([0.0, 0.1, 0.0, 0.1], None),
    ],
)
def test_a_fit_ends_in_the_first_of_the_best_epochs_of_the_lowest_loss(accuracies, losses, judged):
    kept, stopped_there = (adapted("vpt_deep", dropout=0.3) for _ in range(2))
    standing = TrainState()
    judged(accuracies, losses)
    rows = fit(kept, epochs=4, keep="best", standing=standing)
    assert [row["val/accuracy"] for row in rows] == accuracies
    assert (standing.kept_epochs, standing.best) == ({"train": 2}, None)
    judged(accuracies)
    fit(stopped_there, epochs=2)  # of the same first epochs, because the rate is constant
    assert_same_weights(kept, stopped_there, rtol=0, atol=0)


def test_the_best_epoch_may_be_the_last(judged):
    kept, last = (adapted("vpt_deep", dropout=0.3) for _ in range(2))
    for model, keep in ((kept, "best"), (last, "last")):
        judged([0.1, 0.2, 0.3])
        fit(model, epochs=3, keep=keep)
    assert_same_weights(kept, last, rtol=0, atol=0)


def test_the_last_epoch_is_kept_unless_the_best_is_asked_for(judged):
    judged([0.9, 0.1])
    standing = TrainState()
    fit(adapted("linear"), standing=standing)
    assert (standing.kept_epochs, standing.best) == ({}, None)


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_fit_that_stopped_before_or_behind_its_best_epoch_ends_in_it(epochs, judged):
    through, stopped = (adapted("vpt_deep", dropout=0.3) for _ in range(2))
    accuracies, saved = [0.5, 0.8, 0.6, 0.7], []

    def save(standing: TrainState) -> None:
        saved.append(copy.deepcopy((stopped.tuned_state(), vars(standing))))

    judged(accuracies)
    fit(through, epochs=4, keep="best")
    judged(accuracies)
    fit(stopped, epochs=4, keep="best", save=save, save_seconds=0.0)
    tensors, standing = saved[epochs - 1]
    fresh = adapted("vpt_deep", dropout=0.3, seed=9)
    fresh.load_state_dict(tensors, strict=False)
    judged(accuracies[epochs:])
    torch.manual_seed(123)
    fit(fresh, epochs=4, keep="best", standing=TrainState(**standing))
    assert_same_weights(through, fresh, rtol=0, atol=0)


def kept_epochs(folder: Path) -> dict[str, int]:
    return json.loads((folder / "result.json").read_text())["kept_epochs"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Life:
    """Of a run whose best epoch is not its last."""
    return live(COLLAPSING, tmp_path_factory.mktemp("undisturbed"))


def test_a_run_is_scored_at_its_best_epoch(undisturbed):
    result, rows = json.loads((undisturbed.folder / "result.json").read_text()), metrics(undisturbed.folder)
    best = max(rows, key=lambda row: (row["val/accuracy"], -row["val/loss"]))
    assert best["epoch"] < 5
    assert result["kept_epochs"] == {"train": best["epoch"]}
    assert result["kept_rule"] == "highest validation accuracy, of equal ones the lowest loss, then the first"
    scores = {name: value for name, value in best.items() if name.startswith("val/")}
    assert scores == {name: value for name, value in result["metrics"].items() if name.startswith("val/")}


@pytest.mark.parametrize("survived", range(5))
@pytest.mark.parametrize("after", [True, False], ids=["after writing", "before writing"])
def test_a_killed_run_ends_in_the_best_epoch_of_all(survived, after, undisturbed, tmp_path):
    undisturbed.is_lived_again_from("write_state", survived, after=after, cwd=tmp_path)
    assert kept_epochs(run_folder(tmp_path / "runs")) == kept_epochs(undisturbed.folder)


def test_it_makes_another_run(undisturbed, tmp_path):
    assert call(*COLLAPSING, "trainer.keep=last", cwd=tmp_path).code == 0
    folder = run_folder(tmp_path / "runs")
    assert folder.name != undisturbed.folder.name
    assert kept_epochs(folder) == {}
    assert metrics(folder) == metrics(undisturbed.folder)


def test_each_phase_goes_on_from_its_own_best_epoch(tmp_path):
    arguments = ("experiment=smoke", "method=vqt", "method.keep_fraction=0.7", "data.val_fraction=0.5")
    assert call(*arguments, "optimizer=sgd", "trainer.epochs=3", "trainer.keep=best", cwd=tmp_path).code == 0
    folder = run_folder(tmp_path / "runs")
    result, rows = json.loads((folder / "result.json").read_text()), metrics(folder)
    best = {}
    for row in rows:
        merit = lambda row: (row["val/accuracy"], -row["val/loss"], -row["epoch"])  # noqa: E731
        best[row["phase"]] = max(best.get(row["phase"], row), row, key=merit)
    assert result["kept_epochs"] == {phase: row["epoch"] for phase, row in best.items()}
    assert list(best) == ["train", "select", "retrain"]
    assert result["metrics"]["val/loss"] == best["retrain"]["val/loss"]
    assert result["metrics"]["val/accuracy"] == best["retrain"]["val/accuracy"]


def test_a_phase_that_is_solved_has_no_epochs_to_choose_from(tmp_path):
    arguments = ("experiment=smoke", "method=lp_ft", "probe=lbfgs", "probe.C=[1e-2]", "trainer.keep=best")
    assert call(*arguments, cwd=tmp_path).code == 0
    assert kept_epochs(run_folder(tmp_path / "runs")).keys() == {"train"}


def test_without_validation_images_there_is_no_best_epoch(tmp_path):
    outcome = call("experiment=smoke", "trainer.keep=best", "data.val_fraction=0", cwd=tmp_path)
    assert outcome.error == "trainer.keep: best needs validation images to tell the best epoch; set data.val_fraction"
    assert list(tmp_path.glob("runs/*/metrics.jsonl")) == []
