"""Tables of each class and confusion matrices, from the predictions of the runs of chosen settings."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, jaccard_score, precision_recall_fscore_support

from boards import options
from made_up_runs import IMAGES, write_run
from peft_vision.data.arrays import Arrays
from peft_vision.data.pictures import Labelled
from peft_vision.objective.predictions import KeptPredictions
from peft_vision.objective.segmentation import Pixels
from peft_vision.report.comparison import compare
from peft_vision.report.confusion import confusion_figure
from peft_vision.report.per_class import ClassResults, class_scores, class_table, pairs_table, worst_classes
from peft_vision.report.pictures import save_png
from peft_vision.runs.predictions import PREDICTIONS, predictions_checksum, write_predictions

NAMES = ("cat", "dog", "<b>ant</b>")


def kept(seed: int, count: int = IMAGES["test"]) -> KeptPredictions:
    """Predictions of which the more classes are wrong, the higher the seed; none is of the last class."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 3, count)
    prediction = np.where(random.random(count) < 0.1 * (seed + 1), random.integers(0, 2, count), truth) % 2
    shares = np.full((count, 3), 0.2, np.float32)
    shares[np.arange(count), prediction] = 0.6
    return KeptPredictions("classes", NAMES, shares[:, 0], truth, prediction, shares)


def keep(folder: Path, found: KeptPredictions) -> None:
    part = Labelled(
        Arrays(np.zeros((len(found), 1, 1, 3), np.uint8)), torch.arange(len(found)), torch.zeros(len(found))
    )
    write_predictions(folder / PREDICTIONS, {"test": found}, {"test": part}, "f")
    result = json.loads((folder / "result.json").read_text())
    result["predictions"] = predictions_checksum(folder / PREDICTIONS)
    (folder / "result.json").write_text(json.dumps(result))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two seeds of a method that keep predictions, one whose file is damaged, and a run of an earlier version."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        keep(write_run(folder, method="lora", seed=seed, test=0.9), kept(seed))
    damaged = folder / "lora-vit_micro-digits-s2-0.001" / PREDICTIONS
    damaged.write_bytes(damaged.read_bytes()[:-9])
    write_run(folder, method="linear", test=0.8)
    return folder


@pytest.fixture(scope="module")
def report(runs):
    return compare([runs], runs / "report", options())


def test_figures_of_each_class_are_means_over_the_seeds_that_have_them(report, runs):
    found = rows(runs / "report/digits-vit_micro-classes.csv")
    assert [(row["method"], row["class"], row["seeds"]) for row in found] == [("lora", name, "2") for name in NAMES]
    expected = [class_scores(kept(seed)) for seed in (0, 1)]
    for place, row in enumerate(found):
        values = [scores["f1"][place] for scores in expected]
        assert float(row["f1"]) == pytest.approx(np.mean(values))
        assert float(row["f1_std"]) == pytest.approx(np.std(values, ddof=1))
        assert int(row["images"]) == np.sum(kept(0).truth == place)
    assert found[2]["precision"] == ""  # nothing is taken for it
    assert float(found[2]["recall"]) == 0


def test_every_pair_of_classes_that_occurs_is_counted(report, runs):
    matrix = (kept(0).matrix() + kept(1).matrix()) / 2
    found = {(row["true"], row["predicted"]): row for row in rows(runs / "report/digits-vit_micro-confusion.csv")}
    assert len(found) == np.count_nonzero(matrix)
    for (true, other), row in found.items():
        place = NAMES.index(true), NAMES.index(other)
        assert float(row["images"]) == matrix[place]
        assert float(row["share"]) == pytest.approx(matrix[place] / matrix[place[0]].sum())


def test_the_page_and_a_picture_show_them_and_a_run_of_an_earlier_version_is_shown_without(report, runs):
    text = report.page.read_text()
    section = text.split('<section id="classes"')[1].split("</section>")[0]
    assert "Each class on test images, lora" in section
    assert "mean ± standard deviation over seeds 0, 1" in section
    assert "&lt;b&gt;ant&lt;/b&gt;" in section
    assert "Confusion matrix" in section
    assert "linear" not in section
    assert (runs / "report/digits-vit_micro-confusion-lora.png").is_file()
    assert 'href="#classes"' in text


def test_a_damaged_file_is_named_and_left_aside(runs, caplog):
    compare([runs], runs / "again", options())
    (said,) = [message for message in caplog.messages if "no figures of each class" in message]
    assert "s2-0.001/predictions.parquet" in said


def test_a_report_of_runs_without_predictions_has_no_such_section(tmp_path):
    write_run(tmp_path, test=0.9)
    assert 'id="classes"' not in compare([tmp_path], tmp_path / "report", options()).page.read_text()


def test_scores_are_scikit_learns():
    found = kept(1, 60)
    expected = precision_recall_fscore_support(found.truth, found.prediction, labels=range(3), zero_division=np.nan)
    for name, values in zip(("precision", "recall", "f1"), expected, strict=False):
        assert class_scores(found)[name] == pytest.approx(values, nan_ok=True)
    assert worst_classes(found, 1) == ("F1", [(NAMES[2], 0.0)])


@pytest.mark.parametrize("number", [1, 4])
def test_scores_of_several_labels_are_scikit_learns_and_a_class_that_is_nowhere_has_none(number):
    random = np.random.default_rng(0)
    truth, shares = random.random((50, number)) > 0.6, random.random((50, number), dtype=np.float32)
    truth[:, 1:2] = False
    found = KeptPredictions("several", tuple("abcd")[:number], shares[:, 0], truth, shares > 0.5, shares)
    scores = class_scores(found)
    for place in range(number):
        single = precision_recall_fscore_support(
            truth[:, place], shares[:, place] > 0.5, labels=[1], zero_division=np.nan
        )
        for name, (value,) in zip(("precision", "recall", "f1"), single, strict=False):
            assert scores[name][place] == pytest.approx(value, nan_ok=True)
        area = average_precision_score(truth[:, place], shares[:, place]) if truth[:, place].any() else np.nan
        assert scores["average_precision"][place] == pytest.approx(area, nan_ok=True)


def test_scores_of_pixels_are_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    labels, logits = torch.randint(0, 3, (5, 8, 8), generator=generator), torch.randn(5, 4, 8, 8, generator=generator)
    criterion = Pixels(4, None, 0.0)
    found = criterion.predictions(criterion.judge(logits, labels), tuple("abcd"))
    pair = labels.flatten().numpy(), logits.argmax(1).flatten().numpy()
    scores = class_scores(found)
    assert scores["iou"] == pytest.approx(jaccard_score(*pair, average=None, labels=range(4)))
    recalls = precision_recall_fscore_support(*pair, labels=range(4), zero_division=np.nan)[1]
    assert scores["accuracy"] == pytest.approx(recalls, nan_ok=True)  # no pixel is of the last class


def many(count: int) -> ClassResults:
    """A class is taken for the next one more often, the higher its number."""
    truth = np.repeat(np.arange(count), 10)
    wrong = np.tile(np.arange(10), count) < 10 * truth / count / 2
    prediction = np.where(wrong, (truth + 1) % count, truth)
    names = tuple(f"a class with a long name, number {label}" for label in range(count))
    shares = np.ones((len(truth), 1), np.float32)
    found = KeptPredictions("classes", names, shares[:, 0], truth, prediction, shares)
    scores = {name: values[None] for name, values in class_scores(found).items()}
    return ClassResults("lora", (0,), found, found.matrix().sum(axis=1), scores, found.matrix().astype(float))


@pytest.mark.parametrize("count", [10, 50, 1000])
def test_few_classes_are_all_in_the_picture_and_of_many_a_table_has_the_most_confused(count, tmp_path):
    results = many(count)
    figure = confusion_figure(results, "lora: digits")
    save_png(figure, tmp_path / "confusion.png")
    assert max(figure.get_size_inches()) < 9
    (axes,) = figure.axes
    named = [label.get_text() for label in axes.get_yticklabels()]
    assert any(name.startswith("a class") for name in named) == (count < 1000)
    numbered = [text.get_text() for text in axes.texts]
    assert numbered.count("100") == (count == 10)
    table, pairs = class_table(results, "all.csv"), pairs_table(results, "pairs.csv")
    assert len(table.rows) == min(count, 30)
    assert (pairs is None) == (count == 10)
    if pairs:
        shares = [row[2].value for row in pairs.rows]
        assert shares == sorted(shares, reverse=True)
        assert shares[0] == 0.5
