"""What a sweep that tunes left behind: its choice, its budget, and runs that saw no test image."""

import json
import math

import pytest

from boards import board, entry
from made_up_runs import CHOICE, write_attempt, write_run
from peft_vision.core.config import ConfigError
from peft_vision.core.table import markdown
from peft_vision.report.collect import SUPERSEDED, collect
from peft_vision.report.id_ood import comparisons
from peft_vision.report.leaderboard_table import notes
from peft_vision.report.response import responses
from peft_vision.report.shift_table import shift_tables


def tune(runs, method="full", best=0.1, **asked) -> None:
    """Three settings on one seed, and the best of them on two seeds with test images."""
    for lr, val in ((0.1, 0.7), (0.2, 0.6), (0.3, 0.5)):
        write_run(runs, method=method, lr=lr, val=val, test=None, stage="tune", source="digits: 80 train + 20 val")
    for seed in range(2):
        write_run(runs, method=method, lr=best, seed=seed, val=None, test=0.8, stage="final", **asked)


def test_runs_that_only_tune_are_no_fault_and_no_test_figure(tmp_path):
    tune(tmp_path)
    runs, left_out = collect(tmp_path)
    assert left_out == []
    (compared,) = comparisons(runs, reference=None, transform="probit")
    assert [len(row.all_scores) for row in compared.rows] == [2]
    assert entry(board(tmp_path), "full", "digits").score.n == 2


def test_they_count_as_settings_tried(tmp_path):
    tune(tmp_path)
    assert entry(board(tmp_path), "full", "digits").tried == 3


def test_the_sweeps_own_count_comes_first(tmp_path):
    tune(tmp_path, choice={"settings": 40, "validation": 0.7})
    assert entry(board(tmp_path), "full", "digits").tried == 40


def test_the_chosen_setting_is_told_by_what_was_tuned(tmp_path):
    tune(tmp_path, choice={"settings": 3, "validation": 0.7})
    setting = entry(board(tmp_path), "full", "digits").setting
    assert (setting.validation, "optimizer.lr=0.1" in setting.label) == (0.7, True)


def test_they_show_how_validation_answers_to_the_rate(tmp_path):
    tune(tmp_path)
    (problem,) = board(tmp_path).problems
    found = responses(problem)["full"]
    assert {place[0]: tried.accuracy for place, tried in found.tried.items()} == {0.1: 0.7, 0.2: 0.6, 0.3: 0.5}
    assert found.chosen[0] == 0.1


def test_a_method_that_was_only_tuned_says_so(tmp_path):
    tune(tmp_path)
    write_run(tmp_path, method="lora", test=None, stage="tune", source="digits: 80 train + 20 val")
    assert entry(board(tmp_path), "lora", "digits").status == "only tuned"


def test_a_superseded_run_is_left_out_and_named(tmp_path):
    tune(tmp_path)
    folder = write_run(tmp_path, lr=0.2, test=0.9, stage="final", choice={"superseded": True})
    runs, (out,) = collect(tmp_path)
    assert (out.folder, out.reason) == (folder.name, SUPERSEDED)
    assert 0.9 not in [run.metrics.get("test/accuracy") for run in runs]


def test_a_choice_by_test_images_is_said_everywhere(tmp_path):
    tune(tmp_path, choice={"selection": "test", "validation": 0.8})
    found = board(tmp_path)
    assert found.lines[0].on_test
    assert any("chosen on test images" in note for note in notes(found))
    (compared,) = comparisons(collect(tmp_path)[0], reference=None, transform="probit")
    assert "full: chosen on test images" in markdown(*shift_tables([compared]))


def test_a_run_that_peeked_is_labelled_without_a_sweep_that_chose_it(tmp_path):
    write_run(tmp_path, stage="peek")
    assert board(tmp_path).lines[0].on_test


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "choice.json: cannot be read"),
        ('{"settings": 0}', "choice.json: settings: Input should be greater than or equal to 1; got 0"),
        (
            json.dumps({**CHOICE, "selection": "luck"}),
            "choice.json: selection: Input should be 'validation' or 'test'; got 'luck'",
        ),
        (
            json.dumps({**CHOICE, "selection": "test", "validation": math.nan}),
            "choice.json: validation is nan, should be a fraction from 0 to 1",
        ),
    ],
)
def test_a_broken_choice_leaves_its_run_out(text, reason, tmp_path):
    tune(tmp_path)
    folder = write_run(tmp_path, method="lora")
    (folder / "choice.json").write_text(text)
    _, (out,) = collect(tmp_path)
    assert out.reason.startswith(reason)


def test_a_tuning_run_that_failed_is_a_setting_tried_and_no_failed_cell(tmp_path):
    tune(tmp_path)
    write_attempt(tmp_path, lr=0.9, error="the loss became nan")
    found = board(tmp_path)
    assert (entry(found, "full", "digits").status, entry(found, "full", "digits").tried) == ("scored", 4)


def test_a_folder_of_nothing_but_broken_runs_is_an_error(tmp_path):
    folder = write_run(tmp_path, choice={"superseded": True})
    with pytest.raises(ConfigError, match=f"no finished run in .*; {folder.name}: {SUPERSEDED}"):
        collect(tmp_path)
