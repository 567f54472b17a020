"""hydra/sweeper=optuna, as a person uses it."""

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from command import SMOKE, Outcome, call, results, run_folder, start, wait_for
from made_up_runs import made_up_result
from peft_vision.core.config import ConfigError
from peft_vision.data.digits import Digits
from peft_vision.runs.run_records import Result
from peft_vision.sweep.search.search import account
from peft_vision.sweep.search.study import Study, open_journal
from test_resume import HALTED

SEARCH = ("-m", "hydra/sweeper=optuna", *SMOKE, "data.val_fraction=0.5", "tracker=none")
LR = "optimizer.lr=tag(log,interval(1e-4,1e-1))"


def study(folder: Path) -> optuna.Study:
    (journal,) = folder.rglob(".studies/*.log")
    return optuna.load_study(study_name=None, storage=open_journal(journal))


def trials(folder: Path) -> list[FrozenTrial]:
    return study(folder).get_trials()


def accuracies(folder: Path) -> dict[float, float]:
    """By learning rate."""
    found = [json.loads(path.read_text()) for path in results(folder)]
    return {result["config"]["optimizer"]["lr"]: result["metrics"]["val/accuracy"] for result in found}


def search(*arguments: str, cwd: Path) -> Outcome:
    outcome = call(*SEARCH, *arguments, cwd=cwd)
    assert (outcome.code, outcome.err) == (0, "")
    return outcome


def test_it_runs_so_many_trials_in_all_and_names_the_best_and_its_command(tmp_path):
    outcome = search(LR, "hydra.sweeper.n_trials=3", "hydra.sweeper.pruner=none", cwd=tmp_path)
    found = accuracies(tmp_path)
    assert len(found) == 3
    assert [trial.value for trial in trials(tmp_path)] == pytest.approx(
        list(map(found.get, map(rate, trials(tmp_path))))
    )
    best = max(found.values())
    assert f"\nbest      val {100 * best:.2f} %  optimizer.lr=" in outcome.out
    (again,) = re.findall(r"^again     peft-vision (.*)$", outcome.out, re.M)
    assert call(*again.split(), cwd=tmp_path).code == 0
    (whole,) = [
        result for path in results(tmp_path) if "test/accuracy" in (result := json.loads(path.read_text()))["metrics"]
    ]
    assert whole["metrics"]["val/accuracy"] == best


def test_of_equal_trials_the_one_of_the_lowest_loss_is_named(monkeypatch):
    losses = [(0.8, 0.9), (0.8, 0.7), (0.7, 0.1), (0.8, None)]
    results_of_trials = [
        None if loss is None else made_up_result(metrics={"val/accuracy": value, "val/loss": loss})
        for value, loss in losses
    ]
    lines = lines_on_trials([value for value, _ in losses], results_of_trials, monkeypatch)
    assert [line.split("lr=")[1][0] for line in lines] == ["1", "0", "3", "2"]


def test_a_trial_is_shown_by_the_metric_that_chooses(monkeypatch):
    mae = {"name": "mae", "higher_is_better": False, "is_fraction": False}
    results_of_trials = [made_up_result(metrics={"val/mae": value}, chosen_by=mae) for value in (3.2, 4.5)]
    lines = lines_on_trials([-3.2, -4.5], results_of_trials, monkeypatch)
    assert lines == ["best      val 3.2  optimizer.lr=0  (trial 1)", "          val 4.5  optimizer.lr=1  (trial 2)"]


def lines_on_trials(values: list[float], of_runs: list[Result | None], monkeypatch) -> list[str]:
    """What the summary says of whole trials of one run each, the best one first. `values`: ranks of the metric."""
    monkeypatch.setattr("sys.argv", ["peft-vision"])  # whose flags the command that it names repeats
    space = SimpleNamespace(fixed=(), seeds=(), points=lambda params: [(f"optimizer.lr={params['lr']}",)])
    shown = SimpleNamespace(journal="study.log", space=space, is_exhausted=lambda: False)
    found = {}
    for number, (value, result) in enumerate(zip(values, of_runs, strict=True)):
        trial = SimpleNamespace(number=number, value=value, state=TrialState.COMPLETE, params={"lr": number})
        found[number] = (trial, [SimpleNamespace(result=result)])
    return [line for line in account(shown, found) if "(trial" in line]


def rate(trial: FrozenTrial) -> float:
    return float(f"{trial.params['optimizer.lr']:.4g}")


def test_the_same_command_again_adds_no_trial_and_a_larger_number_goes_on(tmp_path):
    few, more = "hydra.sweeper.n_trials=2", "hydra.sweeper.n_trials=4"
    search(LR, few, cwd=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in results(tmp_path)}
    assert "2 trials, 2 whole" in search(LR, few, cwd=tmp_path).out
    assert "4 trials, 4 whole" in search(LR, more, cwd=tmp_path).out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len({trial.params["optimizer.lr"] for trial in trials(tmp_path)}) == len(results(tmp_path)) == 4


def test_a_search_ends_when_all_settings_that_there_are_were_tried(tmp_path):
    for _ in range(2):
        outcome = search(
            "optimizer.lr=1e-3,1e-2", "hydra.sweeper.n_trials=5", "hydra.sweeper.pruner=none", cwd=tmp_path
        )
        assert len(results(tmp_path)) == 2
        assert [trial.state for trial in trials(tmp_path)] == [TrialState.COMPLETE] * 2
        assert "2 trials, 2 whole\n          all of the 2 settings that there are\n" in outcome.out


def test_searches_that_differ_in_a_value_of_an_option_that_they_vary_are_two(tmp_path):
    varied = ("optimizer=adamw,sgd", "hydra.sweeper.n_trials=1", "hydra.sweeper.pruner=none")
    for decay in (0.1, 0.2):
        search(*varied, f"optimizer.weight_decay={decay}", cwd=tmp_path)
    assert len(results(tmp_path)) == len(list(tmp_path.rglob(".studies/*.log"))) == 2


def test_a_trial_of_several_seeds_is_worth_their_mean(tmp_path):
    search(LR, "seed=0,1", "hydra.sweeper.n_trials=1", "hydra.sweeper.pruner=none", cwd=tmp_path)
    values = [json.loads(path.read_text())["metrics"]["val/accuracy"] for path in results(tmp_path)]
    assert len(values) == 2
    assert trials(tmp_path)[0].value == pytest.approx(sum(values) / 2)


def test_a_trial_that_fails_stops_no_other_and_is_listed(tmp_path):
    grid = ("optimizer=sgd", "optimizer.lr=0.1,1e+30", "hydra.sweeper.n_trials=6", "hydra.sweeper.sampler=random")
    outcome = call(*SEARCH, *grid, cwd=tmp_path)
    assert {trial.state for trial in trials(tmp_path)} == {TrialState.COMPLETE, TrialState.FAIL}
    assert outcome.code == 1
    assert "peft-vision: 1 of the sweep's 2 points failed" in outcome.err
    assert "best      val" in outcome.out
    assert "task.retry" not in outcome.err  # it is counted, and not tried again
    again = call(*SEARCH, *grid, "task.retry=true", cwd=tmp_path)
    assert again.error == outcome.err.rpartition("peft-vision: ")[2].removesuffix("\n")
    assert "optimizer.lr=1e+30: failed before: the model's logits of " in again.error


def test_a_combination_that_does_not_work_is_one_failed_trial_and_stops_no_other(tmp_path):
    grid = ("optimizer=adamw,lbfgs", "trainer.mixup_alpha=0,0.2", "features.use=never", "hydra.sweeper.pruner=none")
    for batch in (4, 1):  # the second finds all trials over
        outcome = search(*grid, "hydra.sweeper.n_trials=4", f"hydra.sweeper.batch={batch}", cwd=tmp_path)
        assert sorted(trial.state.name for trial in trials(tmp_path)) == ["COMPLETE"] * 3 + ["FAIL"]
        assert "\nbest      val" in outcome.out
        said = r"^failed    trial \d/4: optimizer=lbfgs trainer.mixup_alpha=0.2: optimizer: LBFGS solves on images as"
        assert len(re.findall(said, outcome.out, re.M)) == 1
    assert len(results(tmp_path)) == 3


def test_a_batch_whose_data_are_gone_leaves_its_trials_to_the_same_command(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Study, "draw", gone_after(Study.draw, patch))
        said = call(*SEARCH, LR, "hydra.sweeper.n_trials=2", cwd=tmp_path)
    assert said.error == "data: gone"
    assert [trial.state for trial in trials(tmp_path)] == [TrialState.RUNNING]
    search(LR, "hydra.sweeper.n_trials=2", cwd=tmp_path)
    assert [trial.state for trial in trials(tmp_path)] == [TrialState.COMPLETE] * 2


def gone_after(draw: Callable, patch: pytest.MonkeyPatch) -> Callable:
    """A way to draw trials after which the data of all runs are gone."""

    def check(_: Digits) -> None:
        raise ConfigError("data: gone")

    def draws(study: Study, count: int) -> list[FrozenTrial]:
        patch.setattr(Digits, "check", check)
        return draw(study, count)

    return draws


def test_trials_that_a_launcher_could_not_start_are_run_by_the_corrected_command(tmp_path, monkeypatch):
    words = (LR, "hydra.sweeper.n_trials=2", "hydra.sweeper.batch=2", "hydra.sweeper.pruner=none")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        assert call(*SEARCH, *words, "hydra/launcher=slurm", cwd=tmp_path).error.startswith("hydra/launcher: no sbatch")
    drawn = [trial.params for trial in trials(tmp_path)]
    search(*words, cwd=tmp_path)
    assert [trial.params for trial in trials(tmp_path)] == drawn
    assert [trial.state for trial in trials(tmp_path)] == [TrialState.COMPLETE] * 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("method=linear",), "nothing to search; write what may vary"),
        ((LR, "hydra.sweeper.n_trials=0"), "hydra.sweeper.n_trials: got 0"),
        ((LR, "hydra.sweeper.pruner=mean"), "hydra.sweeper.pruner: got 'mean'"),
        ((LR, "hydra.sweeper.study=a/b"), "hydra.sweeper.study: got 'a/b'"),
        ((LR, "seed=0,1"), "hydra.sweeper.pruner: median prunes trials of one run"),
        ((LR, "data.val_fraction=0"), "data.stage: tune is for choosing by validation images"),
        ((LR, "optimizer.momentun=0.9"), "unknown key optimizer.momentun"),
        (("optimizer.lr=interval(-2,-1)",), "2 of the sweep's 2 points are wrong, and nothing was started"),
        ((LR, "trainer.batch_size=0,8"), "2 of the sweep's 3 points are wrong, and nothing was started"),
        ((LR, "method=linear,lora", "method.rank=2,4"), "3 of the sweep's 4 points are wrong, and nothing was started"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_what_cannot_end_well_is_refused(arguments, complaint, tmp_path):
    assert call(*SEARCH, *arguments, cwd=tmp_path).error.startswith(complaint)
    assert results(tmp_path) == []


def pruned_by_others(folder: Path, *, accuracy: float) -> str:
    """The override that makes a run a trial of a study in which all others came to this at every epoch."""
    journal = folder / "study.log"
    others = optuna.create_study(study_name="s", storage=open_journal(journal), direction="maximize")
    for _ in range(3):
        trial = others.ask()
        for epoch in range(1, 7):
            trial.report(accuracy, epoch)
        others.tell(trial, accuracy)
    number = others.ask().number
    values = f"journal:'{journal}',study:s,trial:{number},name:median,startup_trials:1,warmup_epochs:1"
    return f"task.pruner={{_target_:peft_vision.sweep.search.study.TrialPruner,{values},epochs:${{trainer.epochs}}}}"


RUN = (*SMOKE, "data.val_fraction=0.5", "trainer.epochs=6")


def test_a_hopeless_run_is_given_up_and_a_plain_command_finishes_it(tmp_path):
    override = pruned_by_others(tmp_path, accuracy=1.0)
    outcome = call(*RUN, override, cwd=tmp_path)
    assert outcome.code == 76
    assert outcome.err.startswith("peft-vision: given up after epoch 2 of 6, with accuracy ")
    folder = run_folder(tmp_path / "runs")
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    assert {path.name for path in folder.iterdir()} >= {"state.pt"}
    assert not {path.name for path in folder.iterdir()} & {"result.json", "failed.json"}
    outcome = call(*RUN, cwd=tmp_path)
    assert "resumes   after epoch 2" in outcome.out
    whole = call(*RUN, "runs=others", cwd=tmp_path)
    assert whole.code == 0
    one, other = (json.loads((run_folder(tmp_path / runs) / "result.json").read_text()) for runs in ("runs", "others"))
    assert one["metrics"] == other["metrics"]


def test_a_run_that_keeps_up_is_not_given_up_and_tells_each_epoch_once(tmp_path):
    override = pruned_by_others(tmp_path, accuracy=0.0)
    assert call(*RUN, override, cwd=tmp_path).code == 0
    rows = [json.loads(line) for line in (run_folder(tmp_path / "runs") / "metrics.jsonl").read_text().splitlines()]
    found = optuna.load_study(study_name="s", storage=open_journal(tmp_path / "study.log")).trials[-1]
    assert found.intermediate_values == {row["epoch"]: row["val/accuracy"] for row in rows}


def test_epochs_done_again_after_a_kill_are_told_once(tmp_path):
    """No state was saved: all is trained again, and Optuna would warn of a step that is told twice."""
    override = pruned_by_others(tmp_path, accuracy=1.0)
    assert call(*RUN, override, cwd=tmp_path).code == 76
    (run_folder(tmp_path / "runs") / "state.pt").unlink()
    outcome = call(*RUN, override, cwd=tmp_path)
    assert (outcome.code, "epoch 2 of 6" in outcome.err) == (76, True)


def test_only_the_epochs_of_the_last_phase_count(tmp_path):
    override = pruned_by_others(tmp_path, accuracy=1.0)
    outcome = call(*RUN, "method=lp_ft", override, cwd=tmp_path)
    assert outcome.err.startswith("peft-vision: given up after epoch 2 of 6, with ")
    assert len((run_folder(tmp_path / "runs") / "metrics.jsonl").read_text().splitlines()) == 8


def test_pruned_trials_count_and_are_cheaper(tmp_path):
    outcome = search(
        "optimizer.lr=1e-7,3e-2",
        "trainer.clip_norm=1e5,2e5,3e5,4e5",  # without effect
        "optimizer=adamw",
        "data.train_size=400",
        "trainer.epochs=6",
        "hydra.sweeper.n_trials=8",
        "hydra.sweeper.sampler=random",
        "hydra.sweeper.startup_trials=1",
        cwd=tmp_path,
    )
    found = trials(tmp_path)
    pruned = [trial for trial in found if trial.state is TrialState.PRUNED]
    assert len(found) == 8
    assert pruned
    assert {trial.params["optimizer.lr"] for trial in pruned} == {"1e-07"}
    assert f"8 trials, {8 - len(pruned)} whole, {len(pruned)} pruned" in outcome.out
    assert "\npruned  trial " in outcome.out


@pytest.mark.parametrize("name", ["2024", "null", "true"])
def test_a_study_may_have_a_name_that_reads_as_another_value(name, tmp_path):
    search(LR, "hydra.sweeper.n_trials=1", f"hydra.sweeper.study='{name}'", cwd=tmp_path)
    assert study(tmp_path).study_name == name


def test_runs_may_lie_anywhere(tmp_path):
    search(LR, "hydra.sweeper.n_trials=1", r"runs='it\'s, {mine}: $HOME'", cwd=tmp_path)
    assert len(trials(tmp_path / "it's, {mine}: $HOME")) == 1


# the search itself trains: what becomes of a pool's runs is told in tests/sweep/launch/test_pool.py
ALONE = ("hydra.sweeper.pruner=none", "hydra/launcher=basic")
HALTED_IN_THE_SECOND = HALTED.replace("== 3", "== 5")
"""The command, which halts in the second epoch of the second run, where each has three."""


def complaints(err: str) -> list[str]:
    """What is no progress of a training, which shows where it takes seconds."""
    return [line for line in err.splitlines() if not line.startswith("training ")]


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on_where_its_runs_stood(tmp_path):
    arguments = (*SEARCH, LR, "hydra.sweeper.n_trials=3", "trainer.epochs=3", "trainer.save_seconds=0", *ALONE)
    first = start(*arguments, cwd=tmp_path, program=("-c", HALTED_IN_THE_SECOND))
    wait_for((tmp_path / "halted").exists, first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert [trial.state for trial in trials(tmp_path)] == [TrialState.COMPLETE, TrialState.RUNNING]
    before = [trial.params for trial in trials(tmp_path)]
    second = call(*arguments, cwd=tmp_path)
    assert (second.code, second.err) == (0, "")
    found = trials(tmp_path)
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * 3
    assert [trial.params for trial in found[:2]] == before
    assert len(results(tmp_path)) == 3
    assert second.out.count("resumes   after epoch 1") == second.out.count("resumes   ") == 1
    assert "3 trials, 3 whole" in second.out


@pytest.mark.slow
def test_searches_started_together_share_the_trials(tmp_path):
    arguments = (*SEARCH, LR, "hydra.sweeper.n_trials=5", "trainer.epochs=5", *ALONE)
    workers = [start(*arguments, cwd=tmp_path) for _ in range(2)]
    ended = [(*worker.communicate(timeout=240), worker.returncode) for worker in workers]
    assert [(code, complaints(err)) for _, err, code in ended] == [(0, [])] * 2
    assert [trial.state for trial in trials(tmp_path)] == [TrialState.COMPLETE] * 5
    assert len(results(tmp_path)) == 5
    assert sum(out.count("\ntrainable ") for out, _, _ in ended) == 5
    assert all("5 trials, 5 whole" in out for out, _, _ in ended)
    assert sum(len(re.findall(r"^done    trial ", out, re.M)) for out, _, _ in ended) == 5
