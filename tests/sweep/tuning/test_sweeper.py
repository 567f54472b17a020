"""hydra/sweeper=tune, as a person uses it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from command import Outcome, call, experiment, results
from peft_vision.runs.run import Run

TUNE = ("-m", "hydra/sweeper=tune", "experiment=smoke", "data.train_size=100", "hydra.sweeper.seeds=[0,1]")
GRID = ("method=linear,bitfit", "optimizer.lr=1e-4,1e-2")
FAILING = ("method=linear,bitfit", "optimizer=sgd", "optimizer.lr=0.01,1e+30", "hydra.sweeper.seeds=[0]")


def tune(*arguments: str, cwd: Path) -> Outcome:
    outcome = call(*TUNE, *arguments, cwd=cwd)
    assert (outcome.code, outcome.err) == (0, "")
    return outcome


def found(folder: Path, **config: Any) -> list[dict[str, Any]]:
    """The results below `folder` of this stage, method or whatever, with what choice.json says."""
    runs = [(json.loads(path.read_text()), _choice(path.parent)) for path in results(folder)]
    return [
        {**_facts(result), **result, "choice": choice}
        for result, choice in runs
        if all(_facts(result)[key] == value for key, value in config.items())
    ]


def _choice(folder: Path) -> dict[str, Any] | None:
    choice = Run(folder).read_choice()
    return choice and choice.model_dump()


def _facts(result: dict[str, Any]) -> dict[str, Any]:
    config = result["config"]
    return {
        "stage": config["data"]["stage"],
        "lr": config["optimizer"].get("lr"),
        **result["choices"],
        "seed": result["seed"],
    }


@pytest.fixture(scope="module")
def tuned(nobodys_store, tmp_path_factory) -> Path:
    """Where that grid was tuned. Nothing may change it: tests take a copy."""
    folder = tmp_path_factory.mktemp("tuned")
    (folder / "said").write_text(tune(*GRID, cwd=folder).out)
    return folder


@pytest.fixture
def copy(tuned, tmp_path) -> Path:
    return shutil.copytree(tuned, tmp_path / "copy")


def merit(run: dict[str, Any]) -> tuple[float, float, float]:
    return run["metrics"]["val/accuracy"], -run["metrics"]["val/loss"], -run["lr"]


def best(folder: Path, method: str) -> dict[str, Any]:
    """The tuning run that should win."""
    return max(found(folder, stage="tune", method=method), key=merit)


def test_every_setting_is_scored_on_validation_and_the_best_is_tested_once_with_every_seed(tuned):
    assert len(found(tuned, stage="tune")) == 4
    assert {run["test_reads"] for run in found(tuned, stage="tune")} == {0}
    for method in ("linear", "bitfit"):
        final = found(tuned, stage="final", method=method)
        assert [run["seed"] for run in final] == [0, 1]
        assert {run["lr"] for run in final} == {best(tuned, method)["lr"]}
        assert {run["test_reads"] for run in final} == {1}
        assert {run["data"]["images"]["train"] for run in final} == {100}


def test_each_result_carries_the_budget_it_was_given(tuned):
    for run in found(tuned, stage="final"):
        winner = best(tuned, run["method"])
        choice = run["choice"]
        assert (choice["settings"], choice["runs"], choice["selection"]) == (2, 2, "validation")
        assert choice["validation"] == pytest.approx(winner["metrics"]["val/accuracy"])
        assert choice["validation_loss"] == pytest.approx(winner["metrics"]["val/loss"])
        assert {key: float(value) for key, value in choice["chosen"].items()} == {"optimizer.lr": winner["lr"]}
        assert choice["superseded"] is False
        assert choice["tuned"] == [winner["identity"]]
    assert all(run["choice"] is None for run in found(tuned, stage="tune"))


def test_it_ends_in_a_table(tuned):
    said = (tuned / "said").read_text()
    assert "chosen by validation; trained on training and validation images; tested once" in said
    (row,) = [line for line in said.splitlines() if line.startswith("linear on digits, vit_micro  ")]
    assert f"optimizer.lr={best(tuned, 'linear')['lr']}" in row
    assert "±" in row


def test_the_same_command_again_trains_nothing(copy):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*.json")}
    outcome = tune(*GRID, cwd=copy)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*.json")} == before
    assert outcome.out.count("before") == 8


def test_a_choice_that_cannot_be_read_is_named_and_takes_nothing_from_the_others(copy):
    damaged = next(copy.glob("runs/linear-*/choice.json"))
    damaged.write_text('{"settings": 2')
    kept = {path: path.read_text() for path in copy.glob("runs/*/choice.json")}
    outcome = call(*TUNE, *GRID, cwd=copy)
    assert outcome.code == 0
    (said,) = {line for line in outcome.out.splitlines() if "it is neither used nor replaced" in line}
    assert f"{damaged.relative_to(copy)}: " in said
    assert "chosen by validation" in outcome.out
    assert {path: path.read_text() for path in kept} == kept


def test_an_extended_grid_runs_what_is_new_and_what_was_chosen_before_is_superseded(copy):
    tune("method=linear", "optimizer.lr=1e-4,1e-2,1,10", cwd=copy)
    winner = best(copy, "linear")
    assert winner["lr"] > 0.01
    assert len(found(copy, stage="tune", method="linear")) == 4
    final = {(run["lr"], run["choice"]["superseded"]) for run in found(copy, stage="final", method="linear")}
    assert final == {(0.01, True), (winner["lr"], False)}
    assert {run["choice"]["superseded"] for run in found(copy, stage="final", method="bitfit")} == {False}
    tune("method=linear", "optimizer.lr=1e-4,1e-2", cwd=copy)  # of these it is the best again, but not of all
    final = {(run["lr"], run["choice"]["superseded"]) for run in found(copy, stage="final", method="linear")}
    assert (winner["lr"], False) in final


def test_solvers_settings_go_on_to_the_final_runs(tmp_path):
    tune("method=linear", "optimizer=lbfgs", "optimizer.C=[1e-3,1]", cwd=tmp_path)
    (run,) = found(tmp_path, stage="tune")
    chosen = run["selection"]["chosen"]["C"]
    assert [final["config"]["optimizer"]["C"] for final in found(tmp_path, stage="final")] == [[chosen]] * 2
    assert {final["choice"]["settings"] for final in found(tmp_path, stage="final")} == {2}


def test_lp_ft_is_tuned_with_the_settings_of_its_probe(tmp_path):
    tune("method=lp_ft", "probe=lbfgs", "probe.C=[1e-3,1]", "optimizer.lr=1e-5,1e-4", "seed=0,1", cwd=tmp_path)
    assert len(found(tmp_path, stage="tune")) == 4
    finals = found(tmp_path, stage="final")
    assert [(final["seed"], len(final["config"]["probe"]["C"])) for final in finals] == [(0, 1), (1, 1)]
    assert {(final["choice"]["settings"], final["choice"]["runs"]) for final in finals} == {(4, 4)}


def test_grids_are_tuned_each_with_its_values(tmp_path):
    words = experiment(
        tmp_path,
        "own",
        "defaults: [smoke]\n"
        "data: { train_size: 100 }\n"
        "hydra:\n"
        "  mode: MULTIRUN\n"
        "  sweeper:\n"
        "    grids:\n"
        '      linear: { method: linear, optimizer.lr: "1e-3,1e-2" }\n'
        "      bitfit: { method: bitfit }\n",
    )
    outcome = call(*words, "hydra/sweeper=tune", "hydra.sweeper.seeds=[3]", cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert {(run["method"], run["seed"]) for run in found(tmp_path, stage="final")} == {("linear", 3), ("bitfit", 3)}
    assert "the only setting" in outcome.out


def test_what_fails_is_listed_and_the_rest_is_chosen_from(tmp_path):
    outcome = call(*TUNE, *FAILING, cwd=tmp_path)
    assert outcome.code == 1
    assert "2 of the sweep's 6 points failed" in outcome.err
    assert {run["lr"] for run in found(tmp_path, stage="final")} == {0.01}
    assert {run["choice"]["settings"] for run in found(tmp_path, stage="final")} == {2}


def test_a_method_of_which_all_fails_has_no_final_run(tmp_path):
    outcome = call(*TUNE, "method=linear", "optimizer=sgd", "optimizer.lr=1e+29,1e+30", cwd=tmp_path)
    assert outcome.code == 1
    assert "none: all failed" in outcome.out
    assert results(tmp_path) == []


@pytest.mark.parametrize("fraction", [0, 0.1])
def test_choosing_by_test_is_labelled_and_retrains_nothing(fraction, tmp_path):
    by_test = ("hydra.sweeper.selection=test", f"data.val_fraction={fraction}")
    outcome = tune("method=linear", "optimizer.lr=1e-4,1e-2", *by_test, cwd=tmp_path)
    assert "chosen by test, as some papers do: no honest figures" in outcome.out
    runs = found(tmp_path, stage="peek")
    assert len(runs) == len(found(tmp_path)) == 4
    labelled = [run for run in runs if run["choice"]]
    assert [run["seed"] for run in labelled] == [0, 1]
    assert {run["choice"]["selection"] for run in labelled} == {"test"}
    assert {run["choice"]["validation"] for run in labelled} == {None}
    assert len({run["lr"] for run in labelled}) == 1


@pytest.mark.parametrize(("of_command", "seeds"), [((), [1]), (("seed=2,3",), [2, 3])])
def test_seeds_of_choosing_by_test_replace_those_that_an_experiment_brings(of_command, seeds, tmp_path):
    brought = ("+hydra.sweeper.params.seed='0,1'", "hydra.sweeper.seeds=[1]", *of_command)
    tune("method=linear", "hydra.sweeper.selection=test", *brought, cwd=tmp_path)
    assert sorted(run["seed"] for run in found(tmp_path)) == seeds


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("trainer.keep=best",), "trainer.keep: best chooses an epoch by validation"),
        (("interpolation=wise_ft",), "interpolation: chooses alpha by validation"),
        (("data.val_fraction=0",), "data.stage: tune is for choosing by validation images"),
        (("data.stage=final",), "data.stage: hydra/sweeper=tune sets it"),
        (("hydra.sweeper.seeds=[]",), "hydra.sweeper.seeds: got [], should be whole numbers"),
        (("hydra.sweeper.selection=train",), "hydra.sweeper.selection: got 'train', should be validation or test"),
        (("task=cache",), "task: hydra/sweeper=tune trains"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_cannot_end_well_is_refused_before_anything_is_trained(arguments, complaint, tmp_path):
    outcome = call(*TUNE, *GRID, *arguments, cwd=tmp_path)
    assert outcome.error.startswith(complaint)
    assert results(tmp_path) == []


SEARCH = (*TUNE, "optimizer.lr=tag(log,interval(1e-4,1e-1))", "hydra.sweeper.n_trials=2", "hydra.sweeper.pruner=none")


def test_each_cell_is_searched_where_there_is_a_number_of_trials(tmp_path):
    search = (*SEARCH, "method=linear,bitfit", "hydra.sweeper.seeds=[0]")
    outcome = call(*search, cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert len(list((tmp_path / "runs" / ".studies").glob("*.log"))) == 2
    for method in ("linear", "bitfit"):
        tuned = found(tmp_path, stage="tune", method=method)
        finals = found(tmp_path, stage="final", method=method)
        assert len({run["lr"] for run in tuned}) == 2
        assert {run["lr"] for run in finals} == {best(tmp_path, method)["lr"]}
        assert {(run["choice"]["settings"], run["choice"]["runs"]) for run in finals} == {(2, 2)}
    before = {path: path.stat().st_mtime_ns for path in results(tmp_path)}
    assert call(*search, cwd=tmp_path).code == 0
    assert {path: path.stat().st_mtime_ns for path in results(tmp_path)} == before


def test_settings_that_are_searched_may_have_several_seeds(tmp_path):
    assert call(*SEARCH, "method=linear", "seed=5,6", cwd=tmp_path).code == 0
    assert sorted(run["seed"] for run in found(tmp_path, stage="tune")) == [5, 5, 6, 6]
    assert [run["seed"] for run in found(tmp_path, stage="final")] == [0, 1]


def test_a_cell_in_which_nothing_varies_is_trained_as_it_is(tmp_path):
    words = experiment(
        tmp_path,
        "own",
        "defaults: [smoke]\n"
        "hydra:\n"
        "  mode: MULTIRUN\n"
        "  sweeper:\n"
        "    grids:\n"
        "      solved: { method: linear, optimizer: lbfgs }\n"
        '      bitfit: { method: bitfit, optimizer.lr: "interval(0.001,0.01)" }\n',
    )
    search = ("hydra/sweeper=tune", "hydra.sweeper.seeds=[0]", "hydra.sweeper.n_trials=2", "data.train_size=100")
    outcome = call(*words, *search, cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert sorted(run["method"] for run in found(tmp_path, stage="tune")) == ["bitfit", "bitfit", "linear"]
    assert len(found(tmp_path, stage="final")) == 2


def test_a_search_by_test_is_refused(tmp_path):
    error = call(*SEARCH, "hydra.sweeper.selection=test", cwd=tmp_path).error
    assert error.startswith("hydra.sweeper.n_trials: a search goes by validation")


@pytest.mark.parametrize("arguments", [SEARCH, ("-m", "hydra/sweeper=optuna", "experiment=smoke", "seed=0,1")])
def test_what_a_search_needs_is_said_where_it_is_missing(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr("peft_vision.sweep.launch.deferred.find_spec", lambda _: None)
    assert call(*arguments, cwd=tmp_path).error == (
        "hydra/sweeper: a search needs Optuna; pip install 'peft-vision[search]'"
    )


def test_seeds_that_train_together_are_those_of_tuning_and_a_final_run_has_one(pretrained, tmp_path):
    grid = ("optimizer=grid", "optimizer.lr=[1e-3,1e-2]", "optimizer.weight_decay=[0]", "optimizer.seeds=[0,1]")
    tune("method=bitfit", *grid, pretrained, "hydra.sweeper.seeds=[0,2]", cwd=tmp_path)
    (tuning,) = found(tmp_path, stage="tune")
    assert len(tuning["seeds"]) == 2
    final = found(tmp_path, stage="final")
    assert [(run["seed"], run.get("seeds"), run["test_reads"]) for run in final] == [(0, None, 1), (2, None, 1)]
    assert len({tuple(run["config"]["optimizer"]["lr"]) for run in final}) == 1
