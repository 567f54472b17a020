"""This module writes the top of the page: what was compared, how settings were chosen, and what made the runs."""

from collections import Counter
from collections.abc import Iterable, Sequence

from peft_vision.report.board_table import ON_TEST
from peft_vision.report.collect import LeftOut
from peft_vision.report.finished import Origin, RunRecord
from peft_vision.report.leaderboard import Leaderboard
from peft_vision.report.markup import Markup, element

_NAMED = 2  # at most this many data sets have their images described here


def title(boards: Sequence[Leaderboard]) -> str:
    """Return a title such as "5 methods on digits"."""
    data = sorted(_data(boards))
    return f"{_count(len(_methods(boards)), 'method')} on {data[0] if len(data) == 1 else f'{len(data)} data sets'}"


def summary(boards: Sequence[Leaderboard], runs: Sequence[RunRecord], left_out: Sequence[LeftOut]) -> list[Markup]:
    backbones = list(dict.fromkeys(board.backbone for board in boards))
    lead = f"{_count(len(runs), 'finished run')} from {_count(len(backbones), 'backbone')}; " + (
        f"{_count(len(left_out), 'folder')} left out." if left_out else "nothing left out."
    )
    parts = [element("p", lead, class_="lead")]
    if any(line.on_test for board in boards for line in board.lines):
        warning = (
            f"{ON_TEST} Some settings were chosen on test images. Their figures are too good, and cannot be compared "
            "with others."
        )
        parts.append(element("p", warning, class_="warning"))
    problems = [problem for board in boards for problem in board.problems]
    sources = [problem.comparison.source if problem.comparison else problem.label for problem in problems]
    if len(sources) > _NAMED:
        sources = [", ".join(dict.fromkeys(problem.label for problem in problems))]
    facts = {
        "Methods": ", ".join(sorted(_methods(boards))),
        "Data": "; ".join(dict.fromkeys(sources)),
        "Backbones": ", ".join(backbones),
        **({"Protocols": "; ".join(protocols)} if (protocols := _protocols(boards)) else {}),
        "Seeds": _listed(run.seed for run in runs),
        "Settings": _chosen(boards, runs),
        "Test images": _reads(runs),
        "Made by": _origins(runs),
        "Dates": _days(runs),
    }
    listed = [part for name, text in facts.items() for part in (element("dt", name), element("dd", text))]
    return [*parts, element("dl", *listed, class_="facts")]


def _chosen(boards: Sequence[Leaderboard], runs: Sequence[RunRecord]) -> str:
    counts = [entry.tried for board in boards for line in board.lines for entry in line.entries if entry.tried]
    tuning = sum(run.tunes for run in runs)
    fewest, most = min(counts, default=0), max(counts, default=0)
    span = f"{most}" if fewest == most else f"{fewest} to {most}"
    said = f"chosen by validation accuracy, of {span} tried for a method on a data set"
    return f"{said}; {_count(tuning, 'run')} only to tune" if tuning else said


def _reads(runs: Sequence[RunRecord]) -> str:
    tested = [run for run in runs if not run.tunes]
    counts = Counter(run.test_reads for run in tested)
    words = {0: "not counted", 1: "read once"}
    parts = [
        f"{words.get(reads, f'read {reads} times')} in {_count(number, 'run')}"
        for reads, number in sorted(counts.items())
    ]
    return "; ".join(parts) or "never read"


def _origins(runs: Sequence[RunRecord]) -> str:
    """Return versions and commits, with the number of runs of each where there are several."""
    made = Counter(_made_by(run.origin) for run in runs)
    if len(made) == 1:
        return next(iter(made))
    return "; ".join(f"{name} ({_count(number, 'run')})" for name, number in made.items())


def _made_by(origin: Origin) -> str:
    commit, _, changes = origin.commit.partition("+")
    parts = ["peft-vision", origin.version, f"at {commit[:10]}" if commit else "", f"with {changes}" if changes else ""]
    return " ".join(filter(None, parts))


def _days(runs: Sequence[RunRecord]) -> str:
    first, last = (find(run.origin.day for run in runs).isoformat() for find in (min, max))
    return f"results written {first}" if first == last else f"results written {first} to {last}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _listed(values: Iterable[int]) -> str:
    found = sorted(set(values))
    whole = found == list(range(found[0], found[-1] + 1)) and len(found) > 3
    return f"{found[0]} to {found[-1]}" if whole else ", ".join(map(str, found))


def _protocols(boards: Sequence[Leaderboard]) -> list[str]:
    return list(dict.fromkeys(board.told for board in boards if board.told))


def _methods(boards: Sequence[Leaderboard]) -> set[str]:
    return {line.method for board in boards for line in board.lines}


def _data(boards: Sequence[Leaderboard]) -> set[str]:
    return {column.label for board in boards for column in board.data}
