"""This module lays out words and figures for a terminal, with as many columns side by side as there is room for."""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

_PADDING = 2  # columns of a terminal


def tables(grid: Sequence[Sequence[str]], *, words: Sequence[str], width: int, beside: int = 1) -> list[Table]:
    """Return `grid` as tables of at most `width`, where possible. `grid`: by column, the heading first. `words`:
    headings of columns that hold no figures. The first `beside` columns are repeated in each table."""
    first, rest = list(grid[:beside]), grid[beside:]
    parts: list[list[Sequence[str]]] = []
    taken = width
    for column in rest:
        if not parts or taken + _width(column) > width:
            parts.append([*first])
            taken = sum(map(_width, first))
        parts[-1].append(column)
        taken += _width(column)
    return [_table(part, words) for part in parts]


def _table(grid: Sequence[Sequence[str]], words: Sequence[str]) -> Table:
    table = Table.grid(padding=(0, _PADDING, 0, 0))
    for heading, *_ in grid:
        table.add_column(justify="left" if heading in words else "right", no_wrap=True)
    for line in zip(*grid, strict=True):
        table.add_row(*map(Text, line))  # not as markup, as which a list in brackets would be read
    return table


def _width(column: Sequence[str]) -> int:
    return max(map(cell_len, column)) + _PADDING
