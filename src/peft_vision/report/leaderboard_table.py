"""This module makes the table of a leaderboard: a row for each method, a column for each data set and mean, and the
notes that a reader needs."""

from collections.abc import Sequence
from typing import Any

from peft_vision.core.output import one_line
from peft_vision.core.table import BEST, ON_TEST, TIE, Cell, Column, Table
from peft_vision.data.twins import worded
from peft_vision.objective.base import ACCURACY, Metric
from peft_vision.report.choose import rule_of
from peft_vision.report.leaderboard import COSTS, BoardEntry, BoardLine, Leaderboard
from peft_vision.report.significance import Score, Verdict

SAMPLE = 3  # names that a note lists
ABOUT = {
    "seeds": "over seeds, each with its mean over the data sets: the verdict holds for these data sets",
    "data_sets": "over data sets, each with its mean over shared seeds: the verdict holds for data sets such as these",
}


def leaderboard_table(board: Leaderboard) -> Table:
    columns = [Column("method", words=True), Column("settings tried"), Column("parameters")]
    columns += [
        Column(column.label, marked=True, style="" if column.kind == "data" else "mean") for column in board.columns
    ]
    rows = [
        [
            Cell(f"{line.method} {ON_TEST}" if line.on_test else line.method, line.method),
            Cell(_tried(line), line.tried[1]),
            Cell("—" if line.parameters is None else f"{line.parameters:,.0f}", line.parameters),
            *(_cell(entry, board) for entry in line.entries),
        ]
        for line in board.lines
    ]
    return Table(
        title=f"Leaderboard, {board.title}",
        columns=columns,
        rows=rows,
        notes=notes(board),
        records=[_record(board, line, number) for line in board.lines for number in range(len(board.columns))],
        numbered=True,
        style="board sticky",
    )


def _cell(entry: BoardEntry, board: Leaderboard) -> Cell:
    if entry.score is None:
        text = f"— ({entry.covered} of {entry.of})" if entry.status == "incomplete" else entry.status
        return Cell(text, kind="absent", style=entry.status.replace(" ", "-"))
    verdict = entry.verdict
    kind = verdict.kind if verdict and verdict.kind in ("best", "tie") else ""
    return Cell(
        figure(entry.score, board.metric),
        board.metric.rank(entry.score.mean),
        kind=kind,
        interval=interval(entry.score, board.metric),
        count=_fewer_seeds(entry, board),
        hint=_hint(verdict) if kind == "tie" else "",
    )


def figure(score: Score, metric: Metric = ACCURACY) -> str:
    """Return a score, in % if it is a fraction, such as "97.31 ± 0.20"."""
    spread = "" if score.std is None else f" ± {metric.number(score.std)}"
    return f"{metric.number(metric.rank(score.mean))}{spread}"


def interval(score: Score, metric: Metric = ACCURACY) -> str:
    """Return the interval, such as "97.01 to 97.61"; empty where there is none."""
    ends = _ends(score, metric)
    return "" if None in ends else f"{metric.number(ends[0])} to {metric.number(ends[1])}"


def _ends(score: Score, metric: Metric) -> tuple[float | None, float | None]:
    """Return the ends of the interval as values of the metric, the lower one first."""
    if score.low is None or score.high is None:
        return None, None
    low, high = sorted((metric.rank(score.low), metric.rank(score.high)))
    return low, high


def _fewer_seeds(entry: BoardEntry, board: Leaderboard) -> str:
    """Return the number of seeds, such as "(2)", where others have more; else an empty string."""
    return f"({entry.score.n})" if entry.score and entry.score.n < board.seeds else ""


def _hint(verdict: Verdict) -> str:
    """Return the tooltip that explains the mark of a tie."""
    over = {"seeds": "seeds", "data_sets": "data sets"}[verdict.over]
    return f"not significantly different from the best (p = {verdict.p:.2g}, {verdict.pairs} {over})"


def _tried(line: BoardLine) -> str:
    """Return how many settings were tried, such as "9", or "3 to 9" where data sets differ."""
    fewest, most = line.tried
    return f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"


def _record(board: Leaderboard, line: BoardLine, number: int) -> dict[str, Any]:
    """Return the values of an entry; accuracies are fractions, None is unknown."""
    column, entry = board.columns[number], line.entries[number]
    score, verdict, metric = entry.score, entry.verdict, board.metric
    low, high = _ends(score, metric) if score else (None, None)

    def cost(what: str) -> float | None:
        return line.cost(number, what) if score else None

    return {
        "backbone": board.backbone,
        "protocol": board.protocol,
        "method": line.method,
        "column": column.label,
        "kind": column.kind,
        "status": entry.status,
        "mean": metric.rank(score.mean) if score else None,
        "std": score.std if score else None,
        "n": score.n if score else 0,
        "ci_low": low,
        "ci_high": high,
        "tie": verdict.kind if verdict else None,
        "p_holm": verdict.p if verdict else None,
        "pairs": verdict.pairs if verdict else None,
        "pairs_of": verdict.over if verdict else None,
        "data_sets": entry.covered,
        "of_data_sets": entry.of,
        "setting": entry.setting.label if entry.setting else None,
        "settings_tried": entry.tried or None,
        "selection": _selection(entry),
        "parameters": cost("parameters"),
        **{what.removeprefix("cost/"): cost(what) for what in COSTS},
        "metric": metric.name,
    }


def _selection(entry: BoardEntry) -> str | None:
    """Return how the setting was chosen, None without a setting."""
    if entry.setting is None:
        return None
    return "chosen on test images" if entry.setting.on_test else "validation"


def notes(board: Leaderboard) -> list[str]:
    """Return the notes that a reader needs."""
    entries = [entry for line in board.lines for entry in line.entries]
    scored = [entry for entry in entries if entry.score]
    metric = board.metric
    what = f"test {metric.words}{' in %' if metric.is_fraction else ''}"
    better = "" if metric.higher_is_better else ", lower is better"
    said = [f"{what}{better}: mean ± standard deviation over seeds (n - 1){_interval_note(scored)}"]
    if board.protocol_words:
        said.append(
            f"protocol: {board.protocol_words}; figures by other protocols on the same test images have a leaderboard "
            "of their own, and enter no mean of this one"
        )
    if any(entry.verdict for entry in scored):
        said.append(f"{BEST} the best of a column{_tie_note(board)}")
    said += [*_mean_notes(board), *_untestable(board), *_twin_notes(board)]
    said += _choice_notes(board)
    if any(_fewer_seeds(entry, board) for entry in scored):
        said.append(f"(n) fewer than {board.seeds} seeds")
    if any(entry.status == "incomplete" for entry in entries):
        said.append("— (n of m): no mean, because only n of its m data sets have a figure")
    words = {
        "missing": "missing: no run here, though others have one",
        "failed": "failed: every run here failed, as listed",
        "unfinished": "unfinished: begun, with no result yet",
        "only tuned": "only tuned: settings were compared on validation images, none has been tested",
        "undecided": "undecided: several settings, and no validation accuracy to choose one",
    }
    return [*said, *(text for status, text in words.items() if any(entry.status == status for entry in entries))]


def _interval_note(scored: Sequence[BoardEntry]) -> str:
    if any(entry.score.low is not None for entry in scored):
        return ", and the 95 % interval of the mean over seeds (Student's t)"
    return ""


def _tie_note(board: Leaderboard) -> str:
    verdicts = [entry.verdict for line in board.lines for entry in line.entries if entry.verdict]
    if not any(verdict.kind in ("tie", "worse") for verdict in verdicts):
        return ""
    return (
        f"; {TIE} not significantly different from it at 5 % (paired t-test over shared seeds, p-values corrected by "
        "Holm's method over the methods of the column)"
    )


def _mean_notes(board: Leaderboard) -> list[str]:
    """Return notes on the sample over which means are compared, and on methods that needed the other sample."""
    means = [number for number, column in enumerate(board.columns) if column.kind != "data"]
    tested = {
        (number, line.method): verdict.over
        for number in means
        for line in board.lines
        if (verdict := line.entries[number].verdict) and verdict.p is not None
    }
    said = [f"means are compared {ABOUT[over]}" for over in (board.ties_over,) if over in tested.values()]
    for number in means:
        names = [name for (column, name), over in tested.items() if column == number and over != board.ties_over]
        if names:
            label, other = board.columns[number].label, tested[number, names[0]]
            lacking = "seeds shared on all of its data sets" if other == "data_sets" else "data sets in each group"
            said.append(f"{label}: {_named(names)} compared {ABOUT[other]}; there are fewer than two {lacking}")
    return said


def _untestable(board: Leaderboard) -> list[str]:
    """Return notes, by column, on the methods that could not be compared with the best."""
    said = []
    for number, column in enumerate(board.columns):
        names = [
            line.method
            for line in board.lines
            if (verdict := line.entries[number].verdict) and verdict.kind == "untestable"
        ]
        if names:
            few = "" if column.kind == "data" else " on all of its data sets, and fewer than two data sets in a group"
            said.append(
                f"{column.label}: {_named(names)} untestable against the best: fewer than two shared seeds{few}, or "
                "all differences equal"
            )
    return said


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - SAMPLE} more" if names[SAMPLE:] else ""
    return f"{', '.join(names[:SAMPLE])}{more}"


def _twin_notes(board: Leaderboard) -> list[str]:
    """Return notes, by column, on test and validation images that also occur in another split."""
    said: dict[str, None] = {}
    for line in board.lines:
        for column, entry in zip(board.columns, line.entries, strict=True):
            for run in entry.setting.runs if entry.setting else ():
                said |= dict.fromkeys(f"{column.label}: {one_line(text)}" for text in worded(run.twins))
    return list(said)


def _choice_notes(board: Leaderboard) -> list[str]:
    settings = [entry.setting for line in board.lines for entry in line.entries if entry.setting]
    rules = dict.fromkeys(run.choice.rule for setting in settings for run in setting.runs if run.choice)
    rule = rule_of(board.metric)
    said = [f"setting: {rule}", *(f"setting, where a sweep chose it: {found}" for found in rules if found != rule)]
    if any(line.on_test for line in board.lines):
        said.append(f"{ON_TEST} chosen on test images: its figures are too good")
    return said
