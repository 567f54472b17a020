"""The axes of a report are data and protocol: the same test images are never averaged with themselves."""

import csv
import io
import json

import pytest

from boards import board, boards, entry, options
from made_up_runs import write_attempt, write_run
from peft_vision.core.table import csv_of
from peft_vision.report.comparison import compare
from peft_vision.report.leaderboard_table import leaderboard_table, notes
from peft_vision.report.response import responses

KEPT, TOO = "validation images kept apart", "trained on validation images too"


def sweep(runs, method="full", data="image_folder", test=0.7, **asked) -> None:
    """Three settings of the stage that a sweep has by itself."""
    for lr in (0.1, 0.2, 0.3):
        write_run(
            runs, method=method, data=data, lr=lr, val=0.5 + lr, test=test, stage="all", source="pics: 34 + 8", **asked
        )


def tune(runs, method="full", data="image_folder", test=0.8) -> None:
    """The same settings tuned, and the best of them trained on all but the test images."""
    for lr in (0.1, 0.2):
        write_run(runs, method=method, data=data, lr=lr, val=lr, test=None, stage="tune", source="pics: 34")
    for seed in range(2):
        write_run(
            runs, method=method, data=data, lr=0.2, seed=seed, val=None, test=test, stage="final", source="pics: 42"
        )


def by_protocol(runs, **asked):
    return {leaderboard.protocol: leaderboard for leaderboard in boards(runs, **asked)}


@pytest.fixture
def both(tmp_path):
    """A sweep of two methods, and a tuning of one of them, on one folder of pictures."""
    for method, test in (("full", 0.7), ("linear", 0.6)):
        sweep(tmp_path, method, test=test)
    tune(tmp_path)
    return tmp_path


def test_a_final_run_is_of_another_protocol_and_of_no_other_data_set(both):
    found = by_protocol(both)
    assert {name: [column.label for column in leaderboard.columns] for name, leaderboard in found.items()} == {
        "all": ["image_folder"],
        "final": ["image_folder"],
    }
    assert entry(found["all"], "full", "image_folder").score.mean == pytest.approx(0.7)
    assert entry(found["final"], "full", "image_folder").score.mean == pytest.approx(0.8)


def test_only_what_the_same_protocol_lacks_is_missing(both):
    found = by_protocol(both)
    assert {name: [line.method for line in leaderboard.lines] for name, leaderboard in found.items()} == {
        "all": ["full", "linear"],
        "final": ["full"],
    }
    sweep(both, "linear", data="pets")
    write_attempt(both, method="ssf", error="the loss became nan")
    statuses = {leaderboard.entries[-1].status for leaderboard in by_protocol(both)["final"].lines}
    assert statuses == {"scored"}
    assert entry(by_protocol(both)["all"], "full", "pets").status == "missing"


def test_runs_that_tuned_belong_to_the_final_ones(both):
    found = by_protocol(both)
    tried = {name: entry(leaderboard, "full", "image_folder").tried for name, leaderboard in found.items()}
    assert tried == {"all": 3, "final": 2}
    places = {
        name: {at for at, _ in responses(leaderboard.problems[0])["full"].tried} for name, leaderboard in found.items()
    }
    assert places == {"all": {0.1, 0.2, 0.3}, "final": {0.1, 0.2}}


def test_a_mean_is_over_data_sets_of_one_protocol(both):
    sweep(both, data="pets", test=0.5)
    found = by_protocol(both)
    assert [column.label for column in found["all"].columns] == ["image_folder", "pets", "mean of 2 data sets"]
    assert entry(found["all"], "full", "mean of 2 data sets").score.mean == pytest.approx((0.7 + 0.5) / 2)
    assert [column.label for column in found["final"].columns] == ["image_folder"]


def test_each_says_its_protocol_where_there_are_two(both, capsys):
    found = by_protocol(both)
    assert {name: leaderboard.title for name, leaderboard in found.items()} == {
        "all": f"vit_micro, {KEPT}",
        "final": f"vit_micro, {TOO}",
    }
    assert any(note.startswith(f"protocol: {TOO}; ") for note in notes(found["final"]))
    report = compare([both], both / "report", options())
    said = capsys.readouterr().out
    for words in (KEPT, TOO):
        assert f"Leaderboard, vit_micro, {words}\n" in said
        assert f"image_folder, vit_micro, {words}: pics: " in said
    page = report.page.read_text()
    assert "<dt>Protocols</dt>" in page
    assert "2 methods on image_folder" in page
    assert "1 backbone;" in page
    assert {
        row["protocol"] for row in csv.DictReader(io.StringIO(csv_of(list(map(leaderboard_table, boards(both))))))
    } == {"all", "final"}
    table = csv.DictReader((both / "report" / "table.csv").read_text().splitlines())
    assert {row["protocol"] for row in table} == {"all", "final"}
    assert {"image_folder-vit_micro-all-response", "image_folder-vit_micro-final-response"} <= set(report.pictures)


def test_a_single_protocol_needs_no_words(tmp_path):
    tune(tmp_path)
    assert (board(tmp_path).title, board(tmp_path).protocol) == ("vit_micro", "final")


def test_runs_without_validation_images_train_on_what_final_ones_do(tmp_path):
    tune(tmp_path)
    folder = write_run(tmp_path, method="linear", data="image_folder", val=None, stage="all", source="pics: 42")
    result = folder / "result.json"
    result.write_text(result.read_text().replace('"val": 100, ', ""))
    assert {line.method for line in board(tmp_path).lines} == {"full", "linear"}


def test_what_only_tuned_stays_beside_the_runs_that_it_was_for(tmp_path):
    """A search leaves runs that tuned and a command, which trains with validation images kept apart."""
    write_run(tmp_path, lr=0.1, val=0.5, test=None, stage="tune")
    write_run(tmp_path, lr=0.2, val=0.6, test=None, stage="tune")
    write_run(tmp_path, lr=0.2, val=0.6, test=0.9, stage="all")
    assert entry(board(tmp_path), "full", "digits").tried == 2


def test_published_figures_stand_beside_each_protocol(tmp_path):
    for data in ("vtab/dtd", "vtab/svhn"):
        sweep(tmp_path, "vpt_deep", data)
        tune(tmp_path, "vpt_deep", data)
    compare([tmp_path], tmp_path / "report", options(published=("vpt_vtab",)))
    rows = csv.DictReader((tmp_path / "report" / "published.csv").read_text().splitlines())
    means = {row["protocol"]: row["measured"] for row in rows if row["column"] == "mean of the 2 measured"}
    assert {name: float(value) for name, value in means.items()} == pytest.approx({"all": 70, "final": 80})


def test_runs_on_fewer_images_of_one_data_set_are_told_apart_by_their_number_and_have_no_mean(tmp_path):
    for shots, test in ((1, 0.4), (16, 0.6)):
        data = {"_target_": "peft_vision.data.digits.Digits", "stage": "all", "shots": shots}
        source = f"digits: {10 * shots} train images"
        write_run(tmp_path, lr=shots / 1000, test=test, config={"data": data}, source=source)
    found = board(tmp_path)
    assert [column.label for column in found.columns] == ["digits, shots=1", "digits, shots=16"]
    assert entry(found, "full", "digits, shots=16").score.mean == pytest.approx(0.6)


def test_data_sets_of_one_name_that_differ_in_more_have_a_mean(tmp_path):
    for number, shots in enumerate((1, 16)):
        data = {"_target_": "peft_vision.data.digits.Digits", "stage": "all", "shots": shots, "split_seed": number}
        write_run(tmp_path, lr=shots / 1000, config={"data": data}, source=f"digits: {10 * shots} train images")
    assert [column.label for column in board(tmp_path).columns] == ["digits (1)", "digits (2)", "mean of 2 data sets"]


def digits(**values) -> dict[str, dict]:
    return {"data": {"_target_": "peft_vision.data.digits.Digits", "stage": "all", "shots": None, **values}}


def test_how_images_are_used_makes_no_other_data_set_of_them(tmp_path):
    """Of one picture a class another augmentation was chosen than of 16, and another rate of dropped paths."""
    for shots, best in ((1, "none"), (16, "flip_crop")):
        for augment in ("none", "flip_crop"):
            config = digits(shots=shots, augment=augment)
            config["backbone"] = {"_target_": "Backbone", "name": "vit", "drop_path": 0.1 * (augment == "none")}
            val, name = 0.6 if augment == best else 0.5, f"{shots}-{augment}"
            write_run(tmp_path / name, val=val, config=config, source=f"digits: {10 * shots} train images")
    found = board(tmp_path)
    assert [column.label for column in found.columns] == ["digits, shots=1", "digits, shots=16"]
    assert [entry(found, "full", column.label).tried for column in found.columns] == [2, 2]


def test_runs_that_tuned_are_beside_those_on_as_many_images_with_any_augmentation(tmp_path):
    for shots in (1, 16):
        for number, augment in enumerate(("none", "flip", "crop")[: 2 if shots == 1 else 3]):
            config, source = digits(shots=shots, augment=augment, stage="tune"), f"digits: {10 * shots} train images"
            write_run(tmp_path / f"{shots}-{augment}", val=0.5 - number / 10, test=None, config=config, source=source)
        config = digits(shots=shots, augment="none", stage="final")
        write_run(tmp_path / f"{shots}-final", config=config, source=source)
    found = board(tmp_path)
    tried = {column.label: entry(found, "full", column.label).tried for column in found.columns}
    assert tried == {"digits, shots=1": 2, "digits, shots=16": 3}


@pytest.mark.parametrize(
    ("counts", "gaps", "values"),
    [
        ((("800", "100"), ("800", "100")), ("", ", 1 of them without a training image"), {}),
        ((("799", "100"), ("800", "99")), ("", ""), {"on_corrupt": "skip"}),
    ],
)
def test_seeds_that_divide_one_data_set_each_by_itself_are_of_one_data_set(counts, gaps, values, tmp_path):
    for seed, ((train, val), gap) in enumerate(zip(counts, gaps, strict=True)):
        source = f"pets: {train} train + {val} val + 50 test images with masks of 3 classes{gap}"
        folder = write_run(tmp_path, seed=seed, config=digits(split_seed=seed, **values), source=source)
        result = json.loads((folder / "result.json").read_text())
        result["data"] |= {"images": {"train": int(train), "val": int(val), "test": 50}}
        result["data"] |= {"corrupt_images_skipped": 900 - int(train) - int(val)}
        (folder / "result.json").write_text(json.dumps(result))
    (column,) = board(tmp_path).columns
    assert entry(board(tmp_path), "full", column.label).score.n == 2
