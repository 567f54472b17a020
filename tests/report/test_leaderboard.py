"""The leaderboard: figures by the book, means of both kinds, and no cell without a figure or a reason."""

import csv
import io
from statistics import fmean, stdev

import pytest
from rich.console import Console

from boards import board, boards, entry
from made_up_runs import write_attempt, write_run
from peft_vision.core.table import csv_of, terminal
from peft_vision.report.leaderboard_table import leaderboard_table, notes

TESTS = {"full": (0.80, 0.82, 0.84), "linear": (0.60, 0.61, 0.63)}
GROUPS = {"natural": ("pets", "dtd"), "specialized": ("eurosat",)}


def write(runs, data="digits", **tests) -> None:
    for method, found in (tests or TESTS).items():
        for seed, test in enumerate(found):
            write_run(runs, method=method, seed=seed, test=test, data=data, source=data)


def write_three(runs) -> None:
    """Two methods on three data sets, three seeds."""
    for number, data in enumerate(("pets", "dtd", "eurosat")):
        write(
            runs, data, **{method: [test - number / 10 for test in accuracies] for method, accuracies in TESTS.items()}
        )


def words(found) -> str:
    console = Console(width=300, record=True, file=io.StringIO())
    for table in terminal(leaderboard_table(found), width=300):
        console.print(table)
    return console.export_text()


def test_a_figure_is_mean_and_deviation_over_seeds(tmp_path):
    write(tmp_path)
    found = entry(board(tmp_path), "full", "digits").score
    assert (found.mean, found.std, found.n) == pytest.approx((0.82, 0.02, 3))


def test_the_best_method_leads(tmp_path):
    write(tmp_path, linear=(0.9, 0.91), full=(0.5, 0.6), lora=(0.7, 0.7))
    found = board(tmp_path)
    assert [line.method for line in found.lines] == ["linear", "lora", "full"]
    assert entry(found, "linear", "digits").verdict.kind == "best"


def test_both_means_are_shown_where_there_are_groups(tmp_path):
    write_three(tmp_path)
    found = board(tmp_path, groups=GROUPS)
    labels = [column.label for column in found.columns]
    assert labels[-4:] == ["natural (2)", "specialized (1)", "mean of 2 groups", "mean of 3 data sets"]
    assert entry(found, "full", "natural (2)").score.mean == pytest.approx((0.82 + 0.72) / 2)
    assert entry(found, "full", "mean of 2 groups").score.mean == pytest.approx((0.77 + 0.62) / 2)
    assert entry(found, "full", "mean of 3 data sets").score.mean == pytest.approx((0.82 + 0.72 + 0.62) / 3)


def test_the_deviation_of_a_mean_is_that_of_the_seeds_means(tmp_path):
    write_three(tmp_path)
    score = entry(board(tmp_path), "linear", "mean of 3 data sets").score
    means = [fmean(test - number / 10 for number in range(3)) for test in TESTS["linear"]]
    assert (score.mean, score.std, score.n) == pytest.approx((fmean(means), stdev(means), 3))


def test_a_mean_over_unequal_seeds_has_no_deviation(tmp_path):
    write(tmp_path, "pets", full=(0.8, 0.9))
    write(tmp_path, "dtd", full=(0.5,))
    score = entry(board(tmp_path), "full", "mean of 2 data sets").score
    assert (score.mean, score.std, score.n) == (pytest.approx((0.85 + 0.5) / 2), None, 1)


def test_data_sets_may_say_their_group_themselves(tmp_path):
    for data, group in (("pets", "natural"), ("eurosat", "specialized"), ("digits", None)):
        write_run(tmp_path, data=data, source=data, group=group)
    labels = [column.label for column in board(tmp_path).columns]
    assert labels[3:] == ["natural (1)", "specialized (1)", "mean of 2 groups", "mean of 3 data sets"]


def test_one_data_set_has_no_mean(tmp_path):
    write(tmp_path)
    assert [column.label for column in board(tmp_path).columns] == ["digits"]


def test_a_group_that_is_not_whole_says_so(tmp_path):
    write_three(tmp_path)
    labels = [column.label for column in board(tmp_path, groups={"natural": ("pets", "dtd", "svhn")}).columns]
    assert "natural (2 of 3)" in labels


def test_a_method_without_a_data_set_has_no_mean_there_and_says_how_many_it_has(tmp_path):
    write_three(tmp_path)
    write(tmp_path, "pets", lora=(0.9, 0.9, 0.95))
    found = board(tmp_path, groups=GROUPS)
    assert entry(found, "lora", "dtd").status == "missing"
    mean = entry(found, "lora", "mean of 3 data sets")
    assert (mean.status, mean.score, mean.covered, mean.of) == ("incomplete", None, 1, 3)
    assert "— (1 of 3)" in words(found)
    assert [line.method for line in found.lines][-1] == "lora"


def test_failed_and_unfinished_cells_say_so_and_count_nowhere(tmp_path):
    write_three(tmp_path)
    before = board(tmp_path)
    write_attempt(tmp_path, method="lora", data="pets", error="the loss became nan\ntry less")
    write_attempt(tmp_path, method="lora", data="dtd")
    after = board(tmp_path)
    assert [entry(after, "lora", data).status for data in ("pets", "dtd", "eurosat")] == [
        "failed",
        "unfinished",
        "missing",
    ]
    for method in TESTS:
        assert entry(after, method, "pets").score == entry(before, method, "pets").score
    assert {"failed: every run here failed, as listed", "unfinished: begun, with no result yet"} < set(notes(after))


def test_a_failed_seed_is_a_seed_less_and_no_figure(tmp_path):
    write(tmp_path, full=(0.5, 0.6), linear=(0.5, 0.6, 0.7))
    write_attempt(tmp_path, method="full", seed=2, error="the loss became nan")
    found = board(tmp_path)
    assert entry(found, "full", "digits").score.mean == pytest.approx(0.55)
    assert "55.00 ± 7.07 [0.00 to 100.00] (2)" in words(found)
    assert "(n) fewer than 3 seeds" in notes(found)


def test_a_data_set_on_which_all_failed_is_a_column(tmp_path):
    write(tmp_path)
    write_attempt(tmp_path, data="pets", error="no memory")
    found = board(tmp_path)
    assert (entry(found, "full", "pets").status, entry(found, "linear", "pets").status) == ("failed", "missing")


def test_several_settings_without_validation_are_undecided(tmp_path):
    for lr in (0.1, 0.2):
        write_run(tmp_path, lr=lr, val=None)
    assert entry(board(tmp_path), "full", "digits").status == "undecided"


def test_no_figure_is_nan_where_nothing_can_be_tested(tmp_path):
    write(tmp_path, full=(0.9,), linear=(0.5,))
    found = board(tmp_path)
    assert entry(found, "linear", "digits").verdict.kind == "untestable"
    assert any("linear untestable" in note for note in notes(found))
    assert "nan" not in (words(found) + csv_of([leaderboard_table(found)])).lower()


def test_a_mean_is_compared_over_seeds_and_says_that_it_is_about_these_data_sets(tmp_path):
    write_three(tmp_path)
    write(tmp_path, "pets", lora=(0.7,))
    write(tmp_path, "dtd", lora=(0.7,))
    write(tmp_path, "eurosat", lora=(0.68,))
    found = board(tmp_path)
    verdict = entry(found, "linear", "mean of 3 data sets").verdict
    assert (verdict.pairs, verdict.over) == (3, "seeds")
    over_seeds, one_seed = [note for note in notes(found) if "compared over" in note]
    assert over_seeds == (
        "means are compared over seeds, each with its mean over the data sets: the verdict holds for these data sets"
    )
    assert one_seed.startswith("mean of 3 data sets: lora compared over data sets, ")
    assert one_seed.endswith("such as these; there are fewer than two seeds shared on all of its data sets")


def test_it_is_compared_over_data_sets_where_one_asks_for_that(tmp_path):
    for number, data in enumerate(("pets", "dtd", "eurosat")):
        write(tmp_path, data, full=(0.8, 0.82, 0.84), linear=(0.6 + number / 10, 0.63, 0.64))
    found = board(tmp_path, ties_over="data_sets", groups=GROUPS)
    verdict = entry(found, "linear", "natural (2)").verdict
    assert (verdict.pairs, verdict.over) == (2, "data_sets")
    assert entry(found, "linear", "specialized (1)").verdict.over == "seeds"
    said = [note for note in notes(found) if "compared over" in note]
    assert said[0].startswith("means are compared over data sets, each with its mean over shared seeds: ")
    assert any(
        note.startswith("specialized (1): linear compared over seeds, ")
        and note.endswith("there are fewer than two data sets in each group")
        for note in said
    )
    rows = csv.DictReader(io.StringIO(csv_of([leaderboard_table(found)])))
    assert {row["pairs_of"] for row in rows if row["column"] == "natural (2)"} == {"", "data_sets"}


def test_each_backbone_has_a_leaderboard(tmp_path):
    write_run(tmp_path, backbone="vit_a")
    write_run(tmp_path, backbone="vit_b")
    assert [leaderboard.backbone for leaderboard in boards(tmp_path)] == ["vit_a", "vit_b"]


def test_data_of_one_name_and_other_images_are_two_columns(tmp_path):
    for number in range(2):
        write_run(tmp_path / str(number), source=f"digits: {number} images")
    labels = [column.label for column in board(tmp_path).columns]
    assert labels == ["digits (1)", "digits (2)", "mean of 2 data sets"]


def test_a_row_of_its_own_has_the_same_label_on_every_data_set(tmp_path):
    sgd = {"optimizer": {"_target_": "peft_vision.optimizer.base.SGD", "lr": 0.1, "rank": 4}}
    adam = {"optimizer": {"_target_": "peft_vision.optimizer.base.SGD", "lr": 0.1, "rank": 8}}
    write_run(tmp_path / "a", data="pets", source="pets", config=sgd)
    write_run(tmp_path / "b", data="pets", source="pets", config=adam)
    write_run(tmp_path / "c", data="dtd", source="dtd", config=sgd)
    found = board(tmp_path, rows=("optimizer.rank",))
    assert {line.method for line in found.lines} == {"full, rank=4", "full, rank=8"}
    assert entry(found, "full, rank=8", "dtd").status == "missing"


def test_the_csv_is_tidy_and_holds_fractions(tmp_path):
    write(tmp_path)
    full, linear = csv.DictReader(io.StringIO(csv_of([leaderboard_table(board(tmp_path))])))
    assert (full["method"], full["column"], full["status"], full["tie"], full["n"]) == (
        "full",
        "digits",
        "scored",
        "best",
        "3",
    )
    assert (float(full["mean"]), float(full["std"])) == pytest.approx((0.82, 0.02))
    assert float(full["ci_low"]) < 0.82 < float(full["ci_high"])
    assert linear["tie"] == "worse"
    assert 0 < float(linear["p_holm"]) < 0.05


def test_costs_in_the_csv_are_those_of_each_column(tmp_path):
    for data, seconds in (("pets", 10.0), ("dtd", 30.0)):
        write_run(tmp_path, data=data, source=data, train_seconds=seconds)
    rows = {
        row["column"]: row["train_seconds"]
        for row in csv.DictReader(io.StringIO(csv_of([leaderboard_table(board(tmp_path))])))
    }
    assert rows == {"pets": "10.0", "dtd": "30.0", "mean of 2 data sets": "20.0"}


def test_what_has_no_figure_is_empty_in_the_csv(tmp_path):
    write(tmp_path)
    write_attempt(tmp_path, method="lora", error="no memory")
    *_, lora = csv.DictReader(io.StringIO(csv_of([leaderboard_table(board(tmp_path))])))
    assert (lora["status"], lora["mean"], lora["std"], lora["n"], lora["tie"]) == ("failed", "", "", "0", "")
