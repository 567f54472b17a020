"""The leaderboards of folders, as tests ask for them."""

from pathlib import Path

from peft_vision.report.collect import collect
from peft_vision.report.id_ood import comparisons
from peft_vision.report.leaderboard import BoardEntry, Leaderboard, leaderboards
from peft_vision.report.options import Options, Over


def options(
    rows: tuple[str, ...] = (),
    groups: dict[str, tuple[str, ...]] | None = None,
    published: tuple[str, ...] = (),
    ties_over: Over = "seeds",
) -> Options:
    return Options(
        reference=None,
        transform="probit",
        rows=rows,
        costs=False,
        groups=groups,
        pictures=("png", "svg"),
        published=published,
        ties_over=ties_over,
    )


def boards(*folders: Path, **asked) -> list[Leaderboard]:
    report_options = options(**asked)
    runs, left_out = collect(*folders)
    compared = comparisons(runs, reference=None, transform="probit", rows=report_options.rows)
    return leaderboards(compared, runs, left_out, report_options)


def board(*folders: Path, **asked) -> Leaderboard:
    """Of the one backbone."""
    (found,) = boards(*folders, **asked)
    return found


def entry(found: Leaderboard, method: str, column: str) -> BoardEntry:
    (line,) = [line for line in found.lines if line.method == method]
    return line.entries[[board_column.label for board_column in found.columns].index(column)]
