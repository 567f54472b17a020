"""What a run left is taken up again only where it is whole."""

import json
import math
import os
from pathlib import Path

import pytest

from nested import paths, replaced
from peft_vision.core.records import Unreadable, sealed
from peft_vision.runs.run import Run
from peft_vision.runs.run_records import Result
from peft_vision.task.shown import print_summary

SCORES = {"accuracy": 0.5, "accuracy_top5": 0.9, "accuracy_per_class": 0.5, "calibration_error": 0.1, "loss": 1.2}
ENTRY = {"mark": "m", "images": 5, "reads": 1, "fingerprint": "f", "shifts": 1, "scores": {"final": SCORES}}
SHIFTS = {"splits": {"test": {**ENTRY, "fingerprint": None, "shifts": None}, "fog": ENTRY}}
SELECTION = {
    "settings": 2,
    "rule": "best",
    "group": "optimizer",
    "chosen": {"C": 1.0},
    "tried": [{"C": 1.0, "val/accuracy": 0.5}, {"C": 2.0, "val/accuracy": 0.4}],
}
CHOICE = {
    "settings": 3,
    "runs": 4,
    "rule": "best",
    "selection": "test",
    "validation": 0.5,
    "chosen": {"optimizer.lr": "0.1"},
    "superseded": False,
    "tuned": ["t"],
    "setting": "s",
}
OF_A_SET = {  # as it has been written since 0.1.0
    "mark": "m",
    "kind": "k",
    "shifts": 1,
    "images": 5,
    "fingerprint": "f",
    "corrupt_images_skipped": 0,
    "missing_classes": ["cat"],
    "missing_are_predictable": False,
    "dropped_classes": [],
    "reads": 1,
    "scores": {"final": SCORES, "alpha=0": {**SCORES, "loss": math.nan}},
}
SUMMARY = {
    "metrics": {"ood/fog/accuracy": 1},
    "images": {"fog": 5},
    "interpolation": {"rows": [{"alpha": 0, "val/accuracy": 0.5}], "chosen": 0, "rule": "best"},
    "pictures": {"of": "1", "files": ["ood-scatter.png"]},
}
HOSTILE = [None, "x" * 2000, -3, 2**60, 1e308, math.nan, [], {}]


def test_a_result_with_any_value_in_any_place_is_named_or_can_be_told(trained, tmp_path, capsys):
    result = {**json.loads((trained / "result.json").read_text()), "selection": SELECTION}
    refused, shown = [], 0
    for place in paths(result):
        if place[:1] == ("config",) and len(place) > 2:
            continue
        for value in HOSTILE:
            (tmp_path / "result.json").write_text(json.dumps(replaced(result, place, value)))
            try:
                read = Run(tmp_path).read_result()
            except Unreadable as error:
                refused.append(str(error))
                continue
            print_summary(read, tmp_path)
            shown += 1
    capsys.readouterr()
    assert min(len(refused), shown) > 300
    assert all(line.startswith(f"cannot read {tmp_path}/result.json: ") and line.count("\n") == 1 for line in refused)


def test_a_result_that_is_read_and_written_again_keeps_every_byte(trained, tmp_path):
    Run(tmp_path).write_result(Result.read(trained))
    assert (tmp_path / "result.json").read_bytes() == (trained / "result.json").read_bytes()


@pytest.mark.parametrize("summary", [{}, {**SUMMARY, "interpolation": None, "pictures": None}, SUMMARY])
def test_so_does_what_was_scored_or_chosen(summary, tmp_path):
    splits = {"test": {"mark": "", "images": 5, "reads": 2, "scores": {"final": SCORES}}, "fog": OF_A_SET}
    for name, written in (("ood", {"splits": splits, **summary}), ("choice", CHOICE)):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(sealed(written), indent=2) + "\n")
        before, run = path.read_bytes(), Run(tmp_path)
        {"ood": run.write_ood, "choice": run.write_choice}[name](getattr(run, f"read_{name}")())
        assert path.read_bytes() == before


def test_a_result_without_a_key_that_is_read_of_it_is_named(trained, tmp_path):
    needed = {name for name, field in Result.model_fields.items() if field.is_required()}
    whole = json.loads((trained / "result.json").read_text())
    for key in needed:
        (tmp_path / "result.json").write_text(json.dumps({name: value for name, value in whole.items() if name != key}))
        with pytest.raises(Unreadable, match=f"result.json: {key}"):
            Run(tmp_path).read_result()


@pytest.mark.parametrize("name", ["ood.json", "choice.json"])
def test_so_are_the_other_files(name, tmp_path):
    whole, read = {"ood.json": (SHIFTS, Run.read_ood), "choice.json": (CHOICE, Run.read_choice)}[name]
    (tmp_path / name).write_text(json.dumps(whole))
    assert read(Run(tmp_path)).model_dump(exclude_unset=True) == whole
    (tmp_path / name).unlink()
    assert read(Run(tmp_path)) is None
    for place in paths(whole):
        if place[-1:] == ("loss",) or (place[:2] == ("splits", "test") and place[-1] in ("fingerprint", "shifts")):
            continue  # may be any number, and are of shifts alone
        for value in HOSTILE[1:]:
            empty = value in ([], {}) and value == replaced(whole, place, value)
            (tmp_path / name).write_text(json.dumps(replaced(whole, place, value)))
            fine = (value == [] and place == ("tuned",)) or (value == {} and place[-1:] in (("splits",), ("scores",)))
            fine = fine or place in (
                ("rule",),
                ("chosen",),
                ("chosen", "optimizer.lr"),
                ("validation",),
            )  # are only shown
            if not (fine or empty):
                with pytest.raises(Unreadable):
                    read(Run(tmp_path))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"fog": {**ENTRY, "shifts": None}}, "no number of shifts"),
        ({"fog": {**ENTRY, "scores": {"final": {"loss": 1.0}}}}, "no accuracy"),
        ({"fog": {**ENTRY, "scores": {"final": {**SCORES, "accuracy": 2}}}}, "should be a fraction"),
        ({"fog": ENTRY, "snow": {**ENTRY, "scores": {"final": {"accuracy": 0.5}}}}, "not the same metrics of final"),
    ],
)
def test_scores_of_shifts_can_be_averaged(values, reason, tmp_path):
    (tmp_path / "ood.json").write_text(json.dumps({"splits": values}))
    with pytest.raises(Unreadable, match=reason):
        Run(tmp_path).read_ood()


@pytest.mark.parametrize("name", ["result.json", "ood.json", "choice.json", "failed.json"])
def test_a_pipe_is_named_and_not_waited_for(name, tmp_path):
    os.mkfifo(tmp_path / name)
    run = Run(tmp_path)
    read = {"result": run.read_result, "ood": run.read_ood, "choice": run.read_choice, "failed": run.read_failure}
    with pytest.raises(Unreadable, match="should be a regular file"):
        read[Path(name).stem]()


def test_the_line_says_which_file_what_is_wrong_and_what_to_do(trained, tmp_path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps({**json.loads((trained / "result.json").read_text()), "metrics": None}))
    with pytest.raises(Unreadable) as error:
        Run(tmp_path).read_result()
    first, second = str(error.value).splitlines()
    assert first == f"cannot read {path}: metrics: Input should be a valid dictionary; got None"
    assert second == "it is of another version, or edited: mend it, or delete it to do its work again"
