"""This module writes published and measured figures side by side: for a terminal, as CSV, as LaTeX and on a page."""

from collections.abc import Sequence
from itertools import groupby

from rich.table import Table as RichTable

from peft_vision.core.output import csv_of_records
from peft_vision.report.beside import ComparedFigure, PublishedComparison
from peft_vision.report.board_text import figure
from peft_vision.report.latex import escaped
from peft_vision.report.markup import Heading, Markup, PageCell, element, joined, table
from peft_vision.report.terminal import tables

MINIATURE = "miniature data: these figures prove nothing about accuracy"
_NONE = "—"
_COLUMNS = ("published", "measured", "difference")


def by_table(found: Sequence[PublishedComparison]) -> list[list[PublishedComparison]]:
    """Group comparisons of the same table, backbone and protocol."""
    return [list(group) for _, group in groupby(found, lambda one: (one.table.name, one.title))]


def beside_heading(found: Sequence[PublishedComparison]) -> str:
    first = found[0]
    return f"{first.table.content.title}: published and measured on {first.title}, test accuracy in %"


def beside_notes(found: Sequence[PublishedComparison]) -> list[str]:
    """Return the notes that a reader of the figures needs."""
    content = found[0].table.content
    said = [MINIATURE] if any(comparison.miniature for comparison in found) else []
    said += [
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


def beside_tables(found: Sequence[PublishedComparison], *, width: int) -> list[RichTable]:
    """Return one published table, split to fit `width`, with a column of three figures for each method."""
    grid = [["", *(cell.label for cell in found[0].cells)]]
    labels = grid[0][1:]
    for comparison in found:
        cells = _aligned(comparison, labels)
        columns = [[name, *(_words(cell)[number] for cell in cells)] for number, name in enumerate(_COLUMNS)]
        widths = [max(map(len, column)) for column in columns]
        rows = [
            "  ".join(text.rjust(w) for text, w in zip(row, widths, strict=True)) for row in zip(*columns, strict=True)
        ]
        grid.append([f"{comparison.method}: {rows[0].strip()}", *rows[1:]])
    return tables(grid, words=("",), width=width)


def _aligned(comparison: PublishedComparison, labels: Sequence[str]) -> list[ComparedFigure]:
    """Return the cells by `labels`; a method with all its data sets lacks the last label and gets an empty cell
    there."""
    by_label = {cell.label: cell for cell in comparison.cells}
    return [by_label.get(label, ComparedFigure(label, "data", None, None, "")) for label in labels]


def _words(cell: ComparedFigure) -> tuple[str, str, str]:
    return _published(cell), _measured(cell), _difference(cell)


def _published(cell: ComparedFigure) -> str:
    """Return the published figure with one decimal, as papers print it, or two for a mean."""
    return _NONE if cell.published is None else f"{cell.published:.{1 if cell.kind == 'data' else 2}f}"


def _measured(cell: ComparedFigure) -> str:
    if cell.measured is None:
        return cell.status if cell.kind == "data" else f"{_NONE} ({cell.status})"
    return figure(cell.measured)


def _difference(cell: ComparedFigure) -> str:
    return "" if cell.difference is None else f"{cell.difference:+.2f}"


def rows(found: Sequence[PublishedComparison]) -> list[dict[str, object]]:
    """Return tidy rows, one for each method and cell; accuracies in %, differences in points, None is unknown."""
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
        for comparison in found
        for cell in comparison.cells
    ]


def beside_csv(found: Sequence[PublishedComparison]) -> str:
    return csv_of_records(rows(found))


def beside_latex(found: Sequence[PublishedComparison]) -> str:
    """Return LaTeX for \\input after \\usepackage{booktabs}, with three columns for each method."""
    return "\n".join(["% \\usepackage{booktabs}", *map(_latex, by_table(found))])


def _latex(found: Sequence[PublishedComparison]) -> str:
    labels = [cell.label for cell in max(found, key=lambda comparison: len(comparison.cells)).cells]
    spans = " & ".join(rf"\multicolumn{{3}}{{c}}{{{escaped(comparison.method)}}}" for comparison in found)
    cells = [_aligned(comparison, labels) for comparison in found]
    lines = [
        " & ".join([escaped(label), *(escaped(text) for column in cells for text in _words(column[number]))]) + r" \\"
        for number, label in enumerate(labels)
    ]
    caption = f"{'. '.join([beside_heading(found), *beside_notes(found)])}."
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escaped(caption)}}}",
            rf"\begin{{tabular}}{{l{'rrr' * len(found)}}}",
            r"\toprule",
            rf" & {spans} \\",
            " & ".join(["", *(_COLUMNS * len(found))]) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def beside_page(found: Sequence[PublishedComparison]) -> Markup:
    """Return an HTML table, with notes, for each published table, backbone and protocol."""
    return joined([_on_page(group) for group in by_table(found)])


def _on_page(found: Sequence[PublishedComparison]) -> Markup:
    labels = [cell.label for cell in max(found, key=lambda comparison: len(comparison.cells)).cells]
    headings = [Heading("data set", True, "")]
    for comparison in found:
        first, *others = _COLUMNS
        headings += [
            Heading(f"{comparison.method}: {first}", False, ""),
            *(Heading(column, False, "") for column in others),
        ]
    cells = [_aligned(comparison, labels) for comparison in found]
    lines = [
        [
            PageCell(label, number, "" if cells[0][number].kind == "data" else "sum"),
            *(cell for column in cells for cell in _page_cells(column[number])),
        ]
        for number, label in enumerate(labels)
    ]
    warned = (
        [element("p", f"{MINIATURE.capitalize()}.", class_="warning")]
        if any(comparison.miniature for comparison in found)
        else []
    )
    said = element("ul", *(element("li", note) for note in beside_notes(found) if note != MINIATURE), class_="notes")
    return joined([*warned, table(beside_heading(found), headings, lines, classes="beside"), said])


def _page_cells(cell: ComparedFigure) -> list[PageCell]:
    measured = cell.measured.mean if cell.measured else None
    shown = _measured(cell)
    return [
        PageCell(_published(cell), cell.published, ""),
        PageCell(shown if cell.measured else element("span", shown, class_="absent"), measured, ""),
        PageCell(_difference(cell), cell.difference, ""),
    ]
