"""Accuracy against cost: the front is the methods that nothing beats, and every axis has legible figures."""

import pytest

from boards import board
from made_up_runs import write_run
from peft_vision.report.figures import log_ticks, looks, short
from peft_vision.report.leaderboard_table import leaderboard_table
from peft_vision.report.scatters import ParetoPoint, front, pareto, points


def point(method: str, cost: float, accuracy: float) -> ParetoPoint:
    return ParetoPoint(method, cost, accuracy, None)


def test_on_the_front_is_what_no_other_is_cheaper_and_better_than():
    found = front(
        [point("dear", 9, 80), point("cheap", 1, 70), point("beaten", 5, 75), point("mid", 3, 78), point("same", 3, 77)]
    )
    assert [pareto_point.method for pareto_point in found] == ["cheap", "mid", "dear"]


def test_a_cost_that_nobody_measured_is_no_panel(tmp_path):
    for number, method in enumerate(("full", "linear")):
        write_run(tmp_path, method=method, parameters=10**number, train_seconds=5.0 + number, state_mib=2.0 + number)
    found = board(tmp_path)
    assert list(points(found, 0)) == ["parameters", "cost/state_mib", "cost/train_seconds"]
    assert {point.method: point.cost for point in points(found, 0)["cost/state_mib"]} == {"full": 2.0, "linear": 3.0}
    assert len(pareto(found, 0, looks(["full", "linear"])).axes) == 3


def test_trained_parameters_are_those_of_method_and_head(tmp_path):
    write_run(tmp_path, parameters=1000)
    (pareto_point,) = points(board(tmp_path), 0)["parameters"]
    assert pareto_point.cost == 1000 + 1290


def test_costs_and_accuracy_are_means_over_seeds_and_of_a_mean_over_data_sets(tmp_path):
    for data, seconds in (("pets", 10.0), ("dtd", 30.0)):
        for seed in range(2):
            write_run(
                tmp_path, data=data, source=data, seed=seed, test=0.5 + seed / 10, train_seconds=seconds + 2 * seed
            )
    found = board(tmp_path)
    by_column = [points(found, number)["cost/train_seconds"][0] for number in range(3)]
    assert [pareto_point.cost for pareto_point in by_column] == pytest.approx([31, 11, 21])
    assert [pareto_point.accuracy for pareto_point in by_column] == pytest.approx([55, 55, 55])


def test_costs_of_a_group_are_means_over_its_own_data_sets(tmp_path):
    for data, group, seconds in (("pets", "a", 10.0), ("dtd", "b", 30.0), ("eurosat", "b", 50.0)):
        write_run(tmp_path, data=data, source=data, group=group, train_seconds=seconds, parameters=int(seconds))
    found = board(tmp_path)
    records = {record["column"]: record for record in leaderboard_table(found).records}
    seconds = {"a (1)": 10, "b (2)": 40, "mean of 2 groups": 30, "mean of 3 data sets": 30}
    assert {column: records[column]["train_seconds"] for column in seconds} == seconds
    assert {column: records[column]["parameters"] - 1290 for column in seconds} == seconds


def test_one_method_alone_is_no_picture(tmp_path):
    write_run(tmp_path)
    assert pareto(board(tmp_path), 0, looks(["full"])) is None


@pytest.mark.parametrize("ends", [(900, 9e7), (781, 905), (0.02, 400), (1.0, 1.3), (3, 40), (0.61, 0.64)])
def test_a_logarithmic_axis_has_a_few_different_figures(ends):
    places = log_ticks(*ends)
    assert 2 <= len(places) <= 6
    assert all(ends[0] <= place <= ends[1] for place in places)
    assert len({short(place) for place in places}) == len(places)


def test_large_figures_are_short():
    assert [short(value) for value in (0.5, 20, 1000, 300_000, 85_800_000)] == ["0.5", "20", "1k", "300k", "85.8M"]
