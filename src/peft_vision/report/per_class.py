"""This module says how well each class is predicted, and which classes are taken for which others, by the predictions
that runs keep: for each method, means over the seeds of its chosen setting, on test images.

Precision, recall, F1 and average precision are scikit-learn's; IoU and the accuracy of pixels come from one confusion
matrix over all pixels of all images.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from peft_vision.core.config import ConfigError
from peft_vision.core.output import csv_of_records, one_line
from peft_vision.core.table import Cell, Column, Table
from peft_vision.data.pictures import LabelKind
from peft_vision.objective.predictions import KeptPredictions
from peft_vision.report.choose import Setting
from peft_vision.report.leaderboard import Leaderboard
from peft_vision.report.problems import TaskResults
from peft_vision.runs.predictions import read_predictions

_log = logging.getLogger("peft_vision")
JUDGED_BY: Mapping[LabelKind, str] = {"classes": "f1", "several": "average_precision", "masks": "iou"}
"""The score by which a class is called worse than another."""
WORDS = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "average_precision": "average precision",
    "iou": "IoU",
    "accuracy": "accuracy",
}
_MOST_CLASSES = 30  # rows of a table on the page
MOST_NAMED = 20  # classes of a picture with a number in each cell
_PAIRS = 15  # pairs of classes that a table lists


def class_scores(found: KeptPredictions) -> dict[str, np.ndarray]:
    """Return the scores (C,) of each class by name, fractions in [0, 1]; NaN where one is not defined: recall and
    average precision of a class that no image shows, precision of one that is never predicted. ValueError for
    numbers."""
    if found.labels_are == "masks":
        return pixel_scores(found.matrix())
    if found.labels_are == "numbers":
        raise ValueError("numbers have no classes")
    # here, because every training imports this module, and scikit-learn takes a while
    from sklearn.metrics import average_precision_score, precision_recall_fscore_support

    number, several = len(found.classes), found.labels_are == "several"
    single = several and number == 1  # which scikit-learn takes for two classes
    truth, prediction = (each[:, 0] if single else each for each in (found.truth, found.prediction))
    labels = [1] if single else np.arange(number)
    scores = precision_recall_fscore_support(truth, prediction, labels=labels, average=None, zero_division=np.nan)
    named = dict(zip(("precision", "recall", "f1"), scores[:3], strict=True))
    if not several or found.ranked is not None:
        return named
    present = found.truth.any(axis=0)
    columns = zip(found.truth.T, found.shares.T, present, strict=True)
    areas = [average_precision_score(true, share) if shown else np.nan for true, share, shown in columns]
    return {"average_precision": np.array(areas), **named}


def pixel_scores(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Return IoU and accuracy (C,) of each class by a confusion matrix (C, C), truth by prediction; NaN where a class
    is not there: for the IoU neither true nor predicted, for the accuracy not true."""
    hits, truth, found = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return {"iou": hits / (truth + found - hits), "accuracy": hits / truth}


def class_counts(found: KeptPredictions) -> np.ndarray:
    """Return how many images, or pixels, of each class there are, int64 (C,)."""
    return found.truth.sum(axis=0) if found.labels_are == "several" else found.matrix().sum(axis=1)


def worst_classes(found: KeptPredictions, most: int) -> tuple[str, list[tuple[str, float]]]:
    """Return the word for a score, and the names of the classes in which it is lowest, the lowest first, each with the
    score; none for numbers."""
    if found.labels_are == "numbers":
        return "", []
    scores = class_scores(found)
    values = scores[name := score_of(found.labels_are, scores)]
    order = [place for place in values.argsort(kind="stable").tolist() if not np.isnan(values[place])]
    return WORDS[name], [(found.classes[place], float(values[place])) for place in order[:most]]


def score_of(labels_are: LabelKind, scores: Mapping[str, np.ndarray]) -> str:
    """Return the name of the score by which classes are ordered: the average precision needs all probabilities, else
    it is F1."""
    return JUDGED_BY[labels_are] if JUDGED_BY[labels_are] in scores else "f1"


@dataclass(frozen=True)
class ClassResults:
    """The results of a method's chosen setting on the test images of one data set. `seeds`: of the R runs that kept
    predictions; `example`: those of the first one. `scores`: (R, C) by name; `counts`: images, or pixels, of each class
    (C,); `matrix`: the confusion matrix (C, C), a mean over the runs. Without classes, as of numbers, there are none of
    these, and of several labels no matrix."""

    method: str
    seeds: tuple[int, ...]
    example: KeptPredictions
    counts: np.ndarray | None = None
    scores: Mapping[str, np.ndarray] | None = None
    matrix: np.ndarray | None = None

    @property
    def classes(self) -> list[str]:
        """Return the names of the classes or targets, each on one line."""
        return [one_line(name) for name in self.example.classes]

    @property
    def counted(self) -> str:
        return "pixels" if self.example.labels_are == "masks" else "images"

    @property
    def judged_by(self) -> str:
        return score_of(self.example.labels_are, self.scores)

    def mean(self, name: str) -> np.ndarray:
        """Return the mean (C,) of a score over the runs that define it; NaN where none does."""
        values = np.ma.masked_invalid(self.scores[name])
        return values.mean(axis=0).filled(np.nan)

    def std(self, name: str) -> np.ndarray:
        """Return the standard deviation (n - 1) of a score over the runs, (C,); NaN for fewer than two."""
        values = np.ma.masked_invalid(self.scores[name])
        runs = values.count(axis=0)
        squares = ((values - values.mean(axis=0)) ** 2).sum(axis=0).filled(np.nan)
        return np.where(runs > 1, (squares / np.maximum(runs - 1, 1)) ** 0.5, np.nan)

    def shares(self) -> np.ndarray:
        """Return the matrix as shares (C, C) of each true class; 0 for a class that is not there."""
        return self.matrix / np.maximum(self.matrix.sum(axis=1, keepdims=True), 1e-9)

    def pairs(self, most: int) -> list[tuple[int, int]]:
        """Return the pairs of a true class and another one that it is taken for, by their share of the true class, the
        largest first."""
        shares = self.shares()
        np.fill_diagonal(shares, 0)
        order = shares.argsort(axis=None, kind="stable")[::-1][:most]
        places = zip(*np.unravel_index(order, shares.shape), strict=True)
        return [(int(true), int(other)) for true, other in places if shares[true, other] > 0]


@dataclass(frozen=True)
class ClassReport:
    """The results of each class on all data sets of a report. `results`: by the id of a data set's TaskResults, of the
    methods whose chosen runs kept predictions, in the order of the leaderboard; `stems`: likewise, how the names of
    its files begin."""

    results: Mapping[int, Sequence[ClassResults]]
    stems: Mapping[int, str]

    def of(self, problem: TaskResults) -> tuple[str, Sequence[ClassResults]]:
        """Return how the names of a data set's files begin, and its results."""
        return self.stems[id(problem)], self.results[id(problem)]

    def files(self) -> dict[str, str]:
        """Return all CSVs by their names."""
        made = [class_files(found, self.stems[problem]) for problem, found in self.results.items()]
        return {name: text for files in made for name, text in files.items()}


def class_report(boards: Sequence[Leaderboard], stems: Mapping[int, str]) -> ClassReport:
    """Read the predictions of all chosen runs. A file that cannot be used is named in a warning."""
    found: dict[int, list[ClassResults]] = {}
    for board in boards:
        for problem in board.problems:
            methods = [line.method for line in board.lines if line.method in problem.chosen]
            results = (_results(method, problem.chosen[method]) for method in methods)
            found[id(problem)] = [result for result in results if result is not None]
    return ClassReport(found, stems)


def _results(method: str, setting: Setting) -> ClassResults | None:
    kept = dict(_test_predictions(setting))
    if not kept:
        return None
    first = next(iter(kept.values()))
    kind = (first.classes, first.labels_are)
    alike = {seed: each for seed, each in kept.items() if (each.classes, each.labels_are) == kind}
    if first.labels_are == "numbers":
        return ClassResults(method, tuple(alike), first)
    each_run = [class_scores(found) for found in alike.values()]
    scores = {name: np.stack([run[name] for run in each_run]) for name in each_run[0]}
    several = first.labels_are == "several"
    matrix = None if several else np.mean([found.matrix() for found in alike.values()], axis=0)
    return ClassResults(method, tuple(alike), first, class_counts(first), scores, matrix)


def _test_predictions(setting: Setting) -> Iterator[tuple[int, KeptPredictions]]:
    for run in setting.runs:
        try:
            found = read_predictions(run.folder, run.predictions_checksum, run.images)
        except ConfigError as error:
            _log.warning("no figures of each class: %s", one_line(str(error).partition("\n")[0]))
            continue
        if found is not None and "test" in found:
            yield run.seed, found["test"]


def class_table(found: ClassResults, file: str) -> Table | None:
    """Return the table of each class, or of the worst ones where there are many; None for numbers. `file`: what has all
    of them."""
    if found.scores is None:
        return None
    names, every = found.classes, len(found.classes)
    ranked = np.argsort(found.mean(found.judged_by), kind="stable").tolist()  # what is not defined comes last
    shown = ranked[:_MOST_CLASSES] if every > _MOST_CLASSES else range(every)
    figures = {name: (found.mean(name), found.std(name)) for name in found.scores}
    rows = [
        [
            Cell(names[place], names[place], style="wrap"),
            Cell(f"{found.counts[place]:,}", int(found.counts[place])),
            *(_score(mean[place], std[place]) for mean, std in figures.values()),
        ]
        for place in shown
    ]
    columns = [Column("class", words=True), Column(found.counted)]
    columns += [Column(f"{WORDS[name]}, %") for name in found.scores]
    notes = [f"the {len(rows)} of {every:,} classes with the lowest {WORDS[found.judged_by]}; {file} has all"]
    return Table(
        f"Each class on test images, {found.method}",
        columns,
        rows,
        notes=notes if every > _MOST_CLASSES else (),
        source=_seeds(found),
    )


def _seeds(found: ClassResults) -> str:
    if len(found.seeds) == 1:
        return f"seed {found.seeds[0]}"
    return f"mean ± standard deviation over seeds {', '.join(map(str, found.seeds))}"


def _score(mean: float, std: float) -> Cell:
    if np.isnan(mean):
        return Cell("—")
    return Cell(f"{100 * mean:.1f}" + ("" if np.isnan(std) else f" ± {100 * std:.1f}"), float(mean))


def pairs_table(found: ClassResults, file: str) -> Table | None:
    """Return the table of the pairs of classes that are confused most, where a picture cannot name all classes; else
    None."""
    if found.matrix is None or len(found.classes) <= MOST_NAMED or not (pairs := found.pairs(_PAIRS)):
        return None
    names, shares = found.classes, found.shares()
    rows = [
        [
            *(Cell(names[place], names[place], style="wrap") for place in (true, other)),
            Cell(f"{100 * shares[true, other]:.1f}", float(shares[true, other])),
            Cell(f"{found.matrix[true, other]:,.4g}", float(found.matrix[true, other])),
        ]
        for true, other in pairs
    ]
    columns = [Column("true class", words=True), Column("taken for", words=True), Column("of the class, %")]
    title = f"Classes that are confused most, {found.method}"
    return Table(title, [*columns, Column(found.counted)], rows, notes=[f"{file} has all"], source=_seeds(found))


def class_files(results: Sequence[ClassResults], stem: str) -> dict[str, str]:
    """Return the CSVs of one data set by their names: each class, and each pair of a true and a predicted class that
    occurs. `stem`: how the names of its files begin."""
    scored = [found for found in results if found.scores is not None]
    confused = [found for found in scored if found.matrix is not None]
    rows = {
        f"{stem}-classes.csv": [record for found in scored for record in _records(found)],
        f"{stem}-confusion.csv": [record for found in confused for record in _pair_records(found)],
    }
    return {name: csv_of_records(records) for name, records in rows.items() if records}


def _records(found: ClassResults) -> Iterator[dict[str, object]]:
    figures = {name: (found.mean(name), found.std(name)) for name in found.scores}
    for place, name in enumerate(found.classes):
        scores = {
            key: None if np.isnan(values[place]) else float(values[place])
            for score, both in figures.items()
            for key, values in zip((score, f"{score}_std"), both, strict=True)
        }
        start = {"method": found.method, "class": name, found.counted: int(found.counts[place])}
        yield {**start, **scores, "seeds": len(found.seeds)}


def _pair_records(found: ClassResults) -> Iterator[dict[str, object]]:
    names, shares = found.classes, found.shares()
    for true, predicted in np.argwhere(found.matrix > 0).tolist():
        yield {
            "method": found.method,
            "true": names[true],
            "predicted": names[predicted],
            found.counted: float(found.matrix[true, predicted]),
            "share": float(shares[true, predicted]),
            "seeds": len(found.seeds),
        }
