"""This module compares measured figures with published ones: each data set of a benchmark, the means of its groups,
the mean of these, and the mean over all its data sets. What has not been measured stays a row without a figure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from peft_vision.core.table import Cell, Column, Table
from peft_vision.objective.base import ACCURACY
from peft_vision.published.tables import PublishedTable, table
from peft_vision.report.choose import Protocol
from peft_vision.report.finished import RunRecord
from peft_vision.report.leaderboard import BoardEntry, BoardLine, Leaderboard
from peft_vision.report.leaderboard_table import figure
from peft_vision.report.significance import Score, Strata, mean_score

MINIATURE = "miniature data: these figures prove nothing about accuracy"
_NONE = "—"
Kind = Literal["data", "group", "mean of groups", "mean", "measured so far"]


@dataclass(frozen=True)
class ComparedFigure:
    """A compared figure. `published`: in %, None where the paper has none; `measured`: as fractions, None where
    `status` says why there is none."""

    label: str
    kind: Kind
    published: float | None
    measured: Score | None
    status: str

    @property
    def difference(self) -> float | None:
        """Return measured minus published in percentage points; None if either is missing."""
        if self.published is None or self.measured is None:
            return None
        return 100 * self.measured.mean - self.published


@dataclass(frozen=True)
class PublishedComparison:
    """The comparison of one method of a `table`, on one backbone by one protocol. `title`: the backbone, and the
    protocol where there are several. `differs`: how its runs differ from the published ones; `miniature`: whether any
    of them used miniature data of a rehearsal."""

    table: PublishedTable
    method: str
    backbone: str
    protocol: Protocol
    title: str
    cells: tuple[ComparedFigure, ...]
    differs: tuple[str, ...]
    miniature: bool


def published_comparisons(boards: Sequence[Leaderboard], names: Sequence[str]) -> list[PublishedComparison]:
    """Return a comparison for each table of `names` and each method with runs, in the order of the table's rows.
    ConfigError for an unknown name."""
    tables = [table(name) for name in names]
    return [
        _comparison(published_table, board, line)
        for published_table in tables
        for board in boards
        if board.metric == ACCURACY
        for method in published_table.content.rows
        for line in board.lines
        if line.method == method and _concerns(board, published_table)
    ]


def _concerns(board: Leaderboard, published_table: PublishedTable) -> bool:
    return bool(
        {_plain(problem.data) for problem in board.problems} & set(map(_plain, published_table.benchmark.titles))
    )


def _plain(data: str) -> str:
    """Return the name without slashes, as a run without a result has it: its folder's name has none."""
    return data.replace("/", "_")


def _comparison(published_table: PublishedTable, board: Leaderboard, line: BoardLine) -> PublishedComparison:
    benchmark, published = published_table.benchmark, published_table.values(line.method)
    entries = {data: _entry(data, board, line) for data in benchmark.titles}
    cells = [
        _figure(title, "data", published.get(data), {data: entries[data]}) for data, title in benchmark.titles.items()
    ]
    groups = dict.fromkeys(benchmark.groups.values())
    if len(groups) > 1:
        for group in groups:
            of_group = {data: entries[data] for data in benchmark.of_group(group)}
            cells.append(
                _figure(f"{group} ({len(of_group)})", "group", published_table.group(line.method, group), of_group)
            )
        strata = tuple(tuple(benchmark.of_group(group)) for group in groups)
        label = f"mean of {len(groups)} groups"
        cells.append(_figure(label, "mean of groups", published_table.mean_of_groups(line.method), entries, strata))
    cells.append(_figure(f"mean of {len(entries)}", "mean", published_table.mean(line.method), entries))
    measured = {data: entry for data, entry in entries.items() if _is_scored(entry)}
    if 0 < len(measured) < len(entries):
        whole = published.keys() >= measured.keys()
        mean = sum(published[data] for data in measured) / len(measured) if whole else None
        cells.append(_figure(f"mean of the {len(measured)} measured", "measured so far", mean, measured))
    return PublishedComparison(
        published_table,
        line.method,
        board.backbone,
        board.protocol,
        board.title,
        tuple(cells),
        tuple(_differs(published_table, line)),
        _is_miniature(line),
    )


def _entry(data: str, board: Leaderboard, line: BoardLine) -> BoardEntry | str:
    """Return the entry of the data set's only column, or the reason why there is none."""
    found = [number for number, problem in enumerate(board.problems) if _plain(problem.data) == _plain(data)]
    if len(found) > 1:
        return f"{len(found)} versions"
    return line.entries[found[0]] if found else "missing"


def _is_scored(entry: BoardEntry | str) -> bool:
    return isinstance(entry, BoardEntry) and entry.score is not None


def _figure(
    label: str,
    kind: Kind,
    published: float | None,
    entries: Mapping[str, BoardEntry | str],
    strata: Strata | None = None,
) -> ComparedFigure:
    """Return the figure of the mean over `entries`, or over the means of their `strata`."""
    without = [entry for entry in entries.values() if not _is_scored(entry)]
    if without:
        first = without[0] if isinstance(without[0], str) else without[0].status
        status = first if len(entries) == 1 else f"{len(entries) - len(without)} of {len(entries)}"
        return ComparedFigure(label, kind, published, None, status)
    values = {(data, seed): value for data, entry in entries.items() for (_, seed), value in entry.values.items()}
    return ComparedFigure(label, kind, published, mean_score(values, strata or (tuple(entries),)), "scored")


def _differs(published_table: PublishedTable, line: BoardLine) -> list[str]:
    """Return the differences that a reader must know before comparing the figures."""
    runs = [run for entry in line.entries if entry.setting for run in entry.setting.runs]
    weights = sorted({run.weights for run in runs} - {published_table.weights_of(line.method)})
    said = [
        f"measured with the weights {name}, published with {published_table.weights_of(line.method)}"
        for name in weights
    ]
    kinds = sorted({str(run.setting["data.source"]) for run in runs if "data.source" in run.setting})
    if kinds:
        said.append(
            f"measured on images of data.source={', '.join(kinds)}, published on: {published_table.content.images}"
        )
    normalization = sorted({str(run.setting.get("backbone.normalization", "own")) for run in runs})
    if normalization:
        words = {"own": "the weights' own", "imagenet": "mean and std of ImageNet", "none": "none"}
        measured = ", ".join(words.get(name, name) for name in normalization)
        said.append(f"normalised by {measured}; published: {published_table.content.normalization}")
    sizes = sorted({size for run in runs if (size := run.setting.get("data.test_size")) is not None})
    if sizes:
        said.append(f"tested on at most {', '.join(map(str, sizes))} images of a data set; published: all")
    said += _shown_otherwise(published_table, runs)
    if line.on_test:
        said.append("measured with settings or epochs that test images chose, so its figures are too good")
    return said


def _shown_otherwise(published_table: PublishedTable, runs: Sequence[RunRecord]) -> list[str]:
    """Return a note for each data set whose images the runs show in another way than the paper's code."""
    said: dict[str, None] = {}
    for run in runs:
        published = published_table.shown(run.data)
        own = {key: str(run.setting[f"data.{key}"]) for key in published if f"data.{key}" in run.setting}
        if any(value != published[key] for key, value in own.items()):
            title = published_table.benchmark.titles[run.data]
            said[f"images of {title} shown by {_words(own)}; nearest to the paper's code: {_words(published)}"] = None
    return sorted(said)


def _words(values: Mapping[str, str]) -> str:
    return ", ".join(f"data.{key}={value}" for key, value in values.items())


def _is_miniature(line: BoardLine) -> bool:
    runs = [run for entry in line.entries if entry.setting for run in entry.setting.runs]
    return any(run.setting.get("data.miniature") is True for run in runs)


def published_tables(compared: Sequence[PublishedComparison]) -> list[Table]:
    """Return a table for each published table, backbone and protocol, with three columns for each method."""
    groups = groupby(compared, lambda comparison: (comparison.table.name, comparison.title))
    return [_table(list(group)) for _, group in groups]


def _table(found: Sequence[PublishedComparison]) -> Table:
    kinds = {cell.label: cell.kind for comparison in found for cell in comparison.cells}
    columns = [Column("data set", words=True)]
    columns += [
        Column(heading, span=comparison.method)
        for comparison in found
        for heading in ("published", "measured", "difference")
    ]
    by_label = [{cell.label: cell for cell in comparison.cells} for comparison in found]
    rows = []
    for number, (label, kind) in enumerate(kinds.items()):
        # a method lacks the labels of the means over what others have measured so far
        compared = [cells.get(label, ComparedFigure(label, "data", None, None, "")) for cells in by_label]
        name = Cell(label, f"{number:03}", style="" if kind == "data" else "sum")
        rows.append([name, *(cell for one in compared for cell in _cells(one))])
    return Table(
        title=f"{found[0].table.content.title}: published and measured on {found[0].title}, test accuracy in %",
        columns=columns,
        rows=rows,
        notes=_notes(found),
        warning=MINIATURE if any(comparison.miniature for comparison in found) else "",
        records=[record for comparison in found for record in _records(comparison)],
        style="published sticky",
    )


def _cells(compared: ComparedFigure) -> list[Cell]:
    """Return the published figure with one decimal, as papers print it, or two for a mean, the measured one, and the
    difference."""
    published, measured, difference = compared.published, compared.measured, compared.difference
    places = 1 if compared.kind == "data" else 2
    absent = compared.status if compared.kind == "data" else f"{_NONE} ({compared.status})"
    return [
        Cell(_NONE if published is None else f"{published:.{places}f}", published),
        Cell(absent, kind="absent" if absent else "") if measured is None else Cell(figure(measured), measured.mean),
        Cell("" if difference is None else f"{difference:+.2f}", difference),
    ]


def _notes(found: Sequence[PublishedComparison]) -> list[str]:
    """Return the notes that a reader of the figures needs."""
    content = found[0].table.content
    said = [
        "measured: mean ± standard deviation over seeds (n - 1); difference in points; "
        f"{_NONE} (n of m): no mean, because only n of its m data sets have a figure",
        f"published: {content.source}; read in {content.read_in}",
        f"weights {content.weights}; images: {content.images}; normalised by {content.normalization}; chosen by: "
        f"{content.selection}; seeds: {content.seeds}",
    ]
    said += [
        f"{comparison.method}, published: {words}"
        for comparison in found
        if (words := comparison.table.about(comparison.method))
    ]
    differs = dict.fromkeys(words for comparison in found for words in comparison.differs)
    said += [f"{_whose(words, found)}{words}" for words in differs]
    absent = [name for name in content.rows if name not in {comparison.method for comparison in found}]
    return [*said, *([f"no run here of {', '.join(absent)}"] if absent else [])]


def _whose(words: str, found: Sequence[PublishedComparison]) -> str:
    """Return the methods that a note concerns as a prefix; empty if it concerns all."""
    methods = [comparison.method for comparison in found if words in comparison.differs]
    return "" if len(methods) == len(found) else f"{', '.join(methods)}: "


def _records(comparison: PublishedComparison) -> list[dict[str, Any]]:
    """Return a row for each figure; accuracies in %, differences in points, None is unknown."""
    return [
        {
            "table": comparison.table.name,
            "backbone": comparison.backbone,
            "protocol": comparison.protocol,
            "method": comparison.method,
            "column": cell.label,
            "kind": cell.kind,
            "published": None if cell.published is None else round(cell.published, 4),
            "measured": None if cell.measured is None else 100 * cell.measured.mean,
            "std": None if cell.measured is None or cell.measured.std is None else 100 * cell.measured.std,
            "n": cell.measured.n if cell.measured else 0,
            "difference": cell.difference,
            "status": cell.status,
            "miniature": comparison.miniature,
        }
        for cell in comparison.cells
    ]
