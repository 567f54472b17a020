"""Which setting wins in each cell, of made-up runs."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from made_up_runs import made_up_result
from peft_vision.core.config import ConfigError
from peft_vision.objective.base import ACCURACY
from peft_vision.sweep.point import PointResult
from peft_vision.sweep.tuning.cells import Decision, decisions


def run(
    accuracy: float | None,
    *words: str,
    lr: float = 0.1,
    seed: int = 0,
    method: str = "lora",
    data: dict[str, Any] | None = None,
    selection: dict[str, Any] | None = None,
    test: float = 0.5,
    loss: float | None = None,
) -> PointResult:
    """A tuning run that ended with this validation accuracy; None: it failed."""
    setting = {"optimizer": {"lr": lr}, "data": {"stage": "tune", **(data or {})}, "method": {"name": method}}
    choices = {"method": method, "backbone": "vit", "data": "digits"}
    named = {"choices": choices, "setting": setting, "seed": seed, "identity": f"{setting}{seed}"}
    experiment = SimpleNamespace(**named, objective=SimpleNamespace(metric=ACCURACY))
    metrics = {"val/accuracy": accuracy, "test/accuracy": test, **({} if loss is None else {"val/loss": loss})}
    result = None if accuracy is None else made_up_result(metrics=metrics, selection=selection)
    overrides = (f"optimizer.lr={lr}", *words, f"seed={seed}", "data.stage=tune")
    fault = ConfigError("diverged") if accuracy is None else None
    return PointResult(SimpleNamespace(experiment=experiment, overrides=overrides), result, fault)


def decided(*runs: PointResult, selection: str = "validation") -> Decision:
    (decision,) = decisions(runs, selection)
    return decision


def test_the_highest_mean_accuracy_over_the_tuning_seeds_wins():
    runs = [
        run(accuracy, lr=lr, seed=seed) for seed, lr, accuracy in [(0, 1, 0.8), (1, 1, 0.6), (0, 2, 0.7), (1, 2, 0.75)]
    ]
    decision = decided(*runs)
    assert decision.chosen == (runs[2], runs[3])
    assert decision.value == pytest.approx(0.725)
    assert (decision.settings, len(decision.tuned)) == (2, 4)
    assert decision.values == {"optimizer.lr": "2"}


def test_of_equal_ones_the_lowest_loss_wins_then_the_smallest_learning_rate():
    assert decided(run(0.7, lr=3), run(0.7, lr=1), run(0.7, lr=2)).values == {"optimizer.lr": "1"}
    decision = decided(run(0.7, lr=3, loss=0.2), run(0.7, lr=1, loss=0.4), run(0.7, lr=2), run(0.6, lr=4, loss=0.1))
    assert (decision.values, decision.loss) == ({"optimizer.lr": "3"}, 0.2)


def test_a_setting_with_fewer_seeds_does_not_compete():
    runs = [run(0.9, lr=1), run(None, lr=1, seed=1), run(0.5, lr=2), run(0.5, lr=2, seed=1)]
    assert decided(*runs).values == {"optimizer.lr": "2"}


def test_it_is_chosen_among_those_that_worked_and_all_count_as_tried():
    decision = decided(run(None, lr=1), run(0.5, lr=2), run(None, lr=3))
    assert (decision.values, decision.settings) == ({"optimizer.lr": "2"}, 3)


def test_a_cell_of_which_all_failed_has_no_winner():
    decision = decided(run(None, lr=1), run(None, lr=2))
    assert (decision.chosen, decision.value, decision.values) == ((), None, {})


def test_images_that_each_seed_draws_for_itself_are_one_cell():
    scores = [(0, 1, 0.8), (1, 1, 0.6), (0, 2, 0.7), (1, 2, 0.75)]
    runs = [run(accuracy, lr=lr, seed=seed, data={"split_seed": seed}) for seed, lr, accuracy in scores]
    decision = decided(*runs)
    assert decision.chosen == (runs[2], runs[3])
    assert (decision.name, decision.settings, decision.value) == ("lora on digits, vit", 2, pytest.approx(0.725))


def test_another_division_than_that_of_the_seed_is_a_cell_of_its_own():
    runs = [run(0.5, seed=seed, data={"split_seed": split_seed}) for seed in (0, 1) for split_seed in (0, 1)]
    assert [len(decision.tuned) for decision in decisions(runs, "validation")] == [2, 2]


def test_methods_and_images_are_cells_of_their_own_and_ways_to_show_them_are_settings():
    runs = [
        run(0.5, method="lora", data={"train_size": 10}),
        run(0.5, method="linear", data={"train_size": 10}),
        run(0.5, method="lora", data={"train_size": 20, "augment": "none"}),
        run(0.6, method="lora", data={"train_size": 20, "augment": "flip_crop"}),
    ]
    names = {decision.name: decision.settings for decision in decisions(runs, "validation")}
    assert names == {
        "lora on digits, vit, data.train_size=10": 1,
        "linear on digits, vit": 1,
        "lora on digits, vit, data.train_size=20": 2,
    }


def solved(group: str, *accuracies: float, losses: Sequence[float] = ()) -> dict[str, Any]:
    """How a solver chose among C = 1, 2, ..."""
    tried = [{"C": float(number), "val/accuracy": accuracy} for number, accuracy in enumerate(accuracies, start=1)]
    tried = [{**row, "val/loss": loss} for row, loss in zip(tried, losses, strict=True)] if losses else tried
    best = max(tried, key=lambda row: row["val/accuracy"])
    return {"group": group, "chosen": {"C": best["C"]}, "rule": "best", "settings": len(tried), "tried": tried}


def test_what_a_solver_tried_within_runs_is_chosen_over_all_seeds():
    runs = [
        run(0.9, seed=0, selection=solved("optimizer", 0.5, 0.8, 0.9)),
        run(0.9, seed=1, selection=solved("optimizer", 0.9, 0.8, 0.2)),
    ]
    decision = decided(*runs)
    assert decision.inner == ("optimizer.C=[2.0]",)
    assert decision.value == pytest.approx(0.8)
    assert (decision.settings, decision.values) == (3, {"optimizer.C": "[2.0]"})


def test_of_equal_means_the_first_setting_of_a_solver_goes_on_though_their_sums_round_otherwise():
    runs = [
        run(0.2, seed=seed, selection=solved("optimizer", 0.15, accuracy)) for seed, accuracy in ((0, 0.1), (1, 0.2))
    ]
    assert (0.1 + 0.2) / 2 > 0.15
    assert decided(*runs).inner == ("optimizer.C=[1.0]",)


def test_of_equal_means_the_lowest_mean_loss_of_a_solvers_settings_goes_on():
    runs = [
        run(0.8, loss=0.7, seed=seed, selection=solved("optimizer", 0.8, 0.8, 0.7, losses=losses))
        for seed, losses in ((0, (0.5, 0.1, 0.0)), (1, (0.3, 0.6, 0.0)))
    ]
    decision = decided(*runs)
    assert decision.inner == ("optimizer.C=[2.0]",)
    assert decision.loss == pytest.approx(0.35)


def test_the_settings_of_a_probe_multiply_nothing_but_are_counted_and_carried_over():
    runs = [run(0.7, lr=lr, selection=solved("probe", 0.5, 0.6)) for lr in (1, 2)]
    decision = decided(*runs)
    assert decision.inner == ("probe.C=[2.0]",)
    assert (decision.value, decision.settings) == (0.7, 4)


def test_test_chooses_only_when_it_is_told_to():
    runs = [run(0.9, lr=1, test=0.1), run(0.1, lr=2, test=0.9)]
    assert decided(*runs).values == {"optimizer.lr": "1"}
    by_test = decided(*runs, selection="test")
    assert (by_test.values, by_test.value) == ({"optimizer.lr": "2"}, 0.9)


@pytest.mark.parametrize(("best", "edges"), [(1, ["smallest"]), (2, []), (3, ["largest"])])
def test_a_value_at_the_edge_of_the_grid_is_noted(best, edges):
    decision = decided(*(run(0.5 + (lr == best), lr=lr) for lr in (1, 2, 3)))
    assert decision.edges == [f"optimizer.lr={best} is the {edge} that was tried" for edge in edges]


def test_of_two_values_each_is_at_the_edge_and_not_noted():
    assert decided(run(0.5, lr=1), run(0.6, lr=2)).edges == []


def test_a_solvers_value_at_the_edge_is_noted():
    decision = decided(run(0.9, selection=solved("optimizer", 0.1, 0.2, 0.9)))
    assert decision.edges == ["optimizer.C=[3.0] is the largest that was tried"]


def test_a_point_that_was_swept_twice_counts_once():
    decision = decided(run(0.5, lr=1), run(0.5, lr=1), run(0.4, lr=2))
    assert (decision.settings, len(decision.chosen)) == (2, 1)
