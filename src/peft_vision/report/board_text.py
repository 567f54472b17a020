"""This module words a leaderboard, in the same way for a terminal, for LaTeX and for a page."""

from collections.abc import Sequence

from peft_vision.core.output import one_line
from peft_vision.data.twins import worded
from peft_vision.report.choose import RULE
from peft_vision.report.leaderboard import BoardEntry, BoardLine, Leaderboard
from peft_vision.report.significance import Score

SAMPLE = 3  # names that a note lists
ABOUT = {
    "seeds": "over seeds, each with its mean over the data sets: what is said is of these data sets",
    "data_sets": "over data sets, each with its mean over shared seeds: what is said is of data sets such as these",
}


def figure(score: Score) -> str:
    """Return a score in %, such as "97.31 ± 0.20"."""
    return f"{100 * score.mean:.2f}" + ("" if score.std is None else f" ± {100 * score.std:.2f}")


def interval(score: Score) -> str:
    """Return the interval in %, such as "97.01 to 97.61"; empty where there is none."""
    return "" if score.low is None or score.high is None else f"{100 * score.low:.2f} to {100 * score.high:.2f}"


def fewer_seeds(entry: BoardEntry, board: Leaderboard) -> str:
    """Return the number of seeds, such as "(2)", where others have more; else an empty string."""
    return f"({entry.score.n})" if entry.score and entry.score.n < board.seeds else ""


def absent(entry: BoardEntry) -> str:
    """Return why an entry has no figure."""
    return f"— ({entry.covered} of {entry.of})" if entry.status == "incomplete" else entry.status


def tried(line: BoardLine) -> str:
    """Return how many settings were tried, such as "9", or "3 to 9" where data sets differ."""
    fewest, most = line.tried
    return f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"


def parameters(line: BoardLine) -> str:
    return "—" if line.parameters is None else f"{line.parameters:,.0f}"


def notes(board: Leaderboard, marks: Sequence[str] = ("*", "≈", "‡")) -> list[str]:
    """Return the notes that a reader needs. `marks`: for the best, for a tie, and for methods tuned on test images."""
    entries = [entry for line in board.lines for entry in line.entries]
    scored = [entry for entry in entries if entry.score]
    best, tie, on_test = marks
    said = ["test accuracy in %: mean ± standard deviation over seeds (n - 1)" + _interval_note(scored)]
    if board.told:
        said.append(
            f"protocol: {board.told}; what other protocols came to on the same test images has a leaderboard of its "
            "own, and is in no mean of this one"
        )
    if any(entry.verdict for entry in scored):
        said.append(f"{best} the best of a column" + _tie_note(board, tie))
    said += [*_mean_notes(board), *_untestable(board), *_twin_notes(board)]
    said += _choice_notes(board, on_test)
    if any(fewer_seeds(entry, board) for entry in scored):
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


def _tie_note(board: Leaderboard, tie: str) -> str:
    verdicts = [entry.verdict for line in board.lines for entry in line.entries if entry.verdict]
    if not any(verdict.kind in ("tie", "worse") for verdict in verdicts):
        return ""
    return (
        f"; {tie} not significantly different from it at 5 % (paired t-test over shared seeds, p-values corrected by "
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


def _choice_notes(board: Leaderboard, on_test: str) -> list[str]:
    settings = [entry.setting for line in board.lines for entry in line.entries if entry.setting]
    rules = dict.fromkeys(run.choice.rule for setting in settings for run in setting.runs if run.choice)
    said = [f"setting: {RULE}", *(f"setting, where a sweep chose it: {rule}" for rule in rules if rule != RULE)]
    if any(line.on_test for line in board.lines):
        said.append(f"{on_test} chosen on test images: its figures are too good")
    return said
