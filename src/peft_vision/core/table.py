"""This module holds tables and renders them for a terminal, as Markdown, as CSV and as LaTeX; page.html renders them as
HTML.

Each renderer escapes all text in one function of its own, so that no name of a run is taken for markup. `terminal`
leaves this to rich's Text, `csv_of` to core.output and the page to jinja2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

from rich.cells import cell_len
from rich.table import Table as RichTable
from rich.text import Text

from peft_vision.core.output import csv_of_records

BEST, TIE = "*", "≈"
"""Marks of the best figure of a column, and of those that do not differ significantly from it."""

ON_TEST = "‡"
"""The mark of what was chosen on test images."""

_PADDING = 2  # columns of a terminal
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "≈": r"$\approx$",
        "—": "---",
        "‡": r"$\ddagger$",
        "²": r"\textsuperscript{2}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    }
)
_MARKDOWN = str.maketrans({"\\": r"\\", "|": r"\|", "<": "&lt;"})


@dataclass(frozen=True)
class Cell:
    """A cell of a table. `value`: what a page orders the column by; None: the row stays at the bottom. `kind`: best and
    tie are marked; absent: the text says why there is no figure. `interval`: shown in small letters below the text.
    `count`: shown behind it, such as the number of seeds. `hint`: the tooltip of a tie. `style`: CSS classes. `link`: a
    URL."""

    text: str
    value: float | str | None = None
    kind: Literal["", "best", "tie", "absent"] = ""
    interval: str = ""
    count: str = ""
    hint: str = ""
    style: str = ""
    link: str = ""

    @property
    def counted(self) -> str:
        return f"{self.text} {self.count}" if self.count else self.text


@dataclass(frozen=True)
class Column:
    """A column of a table. `words`: whether it holds words, which are aligned left, not figures. `span`: a heading over
    this column and its neighbours with the same one, which stay together. `marked`: whether figures can be the best or
    a tie. `style`: CSS classes."""

    heading: str
    words: bool = False
    span: str = ""
    marked: bool = False
    style: str = ""

    @property
    def css(self) -> str:
        """Return the CSS classes of all cells of the column."""
        return f"word {self.style}".strip() if self.words else self.style


@dataclass(frozen=True)
class Table:
    """A table with its notes. `source`: what the figures are of. `warning`: what must be read first. `records`: the
    exact values for CSV, by column, None where unknown. `numbered`: whether a terminal shows the numbers of the rows.
    `repeated`: how many columns are in each part, where a terminal has no room for all. `style`: CSS classes."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    source: str = ""
    warning: str = ""
    records: Sequence[Mapping[str, Any]] = ()
    numbered: bool = False
    repeated: int = 1
    style: str = ""

    @property
    def caption(self) -> str:
        return f"{self.title}: {self.source}" if self.source else self.title

    @property
    def bold_notes(self) -> list[str]:
        """Return the notes for a renderer that prints the best figure bold instead of marking it."""
        mark = f"{BEST} "
        return [f"bold: {note.removeprefix(mark)}" if note.startswith(mark) else note for note in self.notes]

    def remarks(self, *, bold: bool) -> list[str]:
        """Return the warning and the notes. `bold`: whether the best figure is printed bold instead of marked."""
        return [*([self.warning] if self.warning else []), *(self.bold_notes if bold else self.notes)]

    @property
    def headings(self) -> list[str]:
        """Return the headings, the first of a span with the span's own in front."""
        before = ["", *(column.span for column in self.columns)]
        return [
            f"{column.span}: {column.heading}" if column.span != last else column.heading
            for last, column in zip(before, self.columns, strict=False)
        ]


def terminal(table: Table, *, width: int) -> list[RichTable]:
    """Return the table as tables of at most `width`, where possible; columns of one span stay together."""
    grid = [
        [heading, *(_marked(column, row[number]) for row in table.rows)]
        for number, (heading, column) in enumerate(zip(table.headings, table.columns, strict=True))
    ]
    left = [column.words for column in table.columns]
    spans = [column.span or number for number, column in enumerate(table.columns)]
    repeated = table.repeated
    if table.numbered:
        grid.insert(0, ["", *(str(number + 1) for number in range(len(table.rows)))])
        left, spans, repeated = [False, *left], ["", *spans], repeated + 1
    sizes = [max(map(cell_len, column)) + _PADDING for column in grid]
    parts: list[list[int]] = []
    taken = width
    for _, group in groupby(range(repeated, len(grid)), lambda number: spans[number]):
        numbers = list(group)
        size = sum(sizes[number] for number in numbers)
        if not parts or taken + size > width:
            parts.append(list(range(repeated)))
            taken = sum(sizes[:repeated])
        parts[-1] += numbers
        taken += size
    return [_rich_table([grid[number] for number in part], [left[number] for number in part]) for part in parts]


def _rich_table(grid: Sequence[Sequence[str]], left: Sequence[bool]) -> RichTable:
    table = RichTable.grid(padding=(0, _PADDING, 0, 0))
    for is_left in left:
        table.add_column(justify="left" if is_left else "right", no_wrap=True)
    for line in zip(*grid, strict=True):
        table.add_row(*map(Text, line))  # not as markup, as which a list in brackets would be read
    return table


def _marked(column: Column, cell: Cell) -> str:
    """Return text such as "97.31 ± 0.20 [97.01 to 97.61] ≈"; in a marked column each ends with room for a mark."""
    if not column.marked:
        return cell.counted
    mark = {"best": BEST, "tie": TIE}.get(cell.kind, " ")
    return " ".join(filter(None, [cell.text, f"[{cell.interval}]" if cell.interval else "", cell.count, mark]))


def markdown(table: Table) -> str:
    """Return the table under a heading, with its remarks below."""
    lines = [[escaped_markdown(heading) for heading in table.headings]]
    lines.append(["---" if column.words else "---:" for column in table.columns])
    lines += [[_markdown_cell(*pair) for pair in zip(table.columns, row, strict=True)] for row in table.rows]
    rows = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    notes = "".join(f"- {escaped_markdown(note)}\n" for note in table.remarks(bold=True))
    source = f"{escaped_markdown(table.source)}\n\n" if table.source else ""
    return f"## {escaped_markdown(table.title)}\n\n{source}{rows}\n{notes}"


def _markdown_cell(column: Column, cell: Cell) -> str:
    if cell.kind == "best":
        return f"**{escaped_markdown(_marked(column, replace(cell, kind='')).strip())}**"
    return escaped_markdown(_marked(column, cell).strip())


def escaped_markdown(text: str) -> str:
    """Return the text with the signs escaped that would end a cell or begin a tag."""
    return text.translate(_MARKDOWN)


def csv_of(tables: Sequence[Table]) -> str:
    """Return the records of all tables, which have the same keys, below one heading."""
    return csv_of_records([record for table in tables for record in table.records])


def latex(tables: Sequence[Table]) -> str:
    """Return LaTeX for \\input after \\usepackage{booktabs}: the best of a column bold, ties marked, intervals in small
    type below their figures."""
    return "\n".join(["% \\usepackage{booktabs}", *map(_latex_table, tables)])


def escaped_latex(text: str) -> str:
    """Return the text with special characters escaped, as LaTeX prints it."""
    return text.translate(_LATEX)


def _latex_table(table: Table) -> str:
    caption = f"{'. '.join([table.caption, '; '.join(table.remarks(bold=True))])}."
    spans = [(span, len(list(columns))) for span, columns in groupby(table.columns, lambda column: column.span)]
    above = [
        rf"\multicolumn{{{count}}}{{c}}{{{escaped_latex(span)}}}" if span else " & " * (count - 1)
        for span, count in spans
    ]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escaped_latex(caption)}}}",
            rf"\begin{{tabular}}{{{''.join('l' if column.words else 'r' for column in table.columns)}}}",
            r"\toprule",
            *([_latex_row(above)] if any(span for span, _ in spans) else []),
            _latex_row([escaped_latex(column.heading) for column in table.columns]),
            r"\midrule",
            *(line for row in table.rows for line in _latex_lines(row)),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _latex_lines(row: Sequence[Cell]) -> list[str]:
    """Return the line of a row, and one of its intervals where it has any."""
    lines = [_latex_row(list(map(_latex_cell, row)))]
    if any(cell.interval for cell in row):
        small = [rf"{{\scriptsize [{escaped_latex(cell.interval)}]}}" if cell.interval else "" for cell in row]
        lines.append(_latex_row(small))
    return lines


def _latex_cell(cell: Cell) -> str:
    text = escaped_latex(cell.counted)
    forms = {"best": rf"\textbf{{{text}}}", "tie": rf"{text}\,$\approx$", "absent": rf"\textit{{{text}}}"}
    return forms.get(cell.kind, text)


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
