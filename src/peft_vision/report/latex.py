"""This module writes a leaderboard as a LaTeX table with the rules of booktabs: the best of a column bold, ties
marked, and the 95 % interval in small type below each figure."""

from collections.abc import Sequence

from peft_vision.report.board_text import absent, fewer_seeds, figure, interval, notes, parameters, tried
from peft_vision.report.leaderboard import BoardEntry, BoardLine, Leaderboard

_ESCAPED = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "≈": r"$\approx$",
    "—": "---",
    "‡": r"$\ddagger$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **dict(zip("<>|", (r"\textless{}", r"\textgreater{}", r"\textbar{}"), strict=True)),
}


def latex(boards: Sequence[Leaderboard]) -> str:
    """Return LaTeX for \\input after \\usepackage{booktabs}."""
    return "\n".join(["% \\usepackage{booktabs}", *map(_table, boards)])


def escaped(text: str) -> str:
    """Return the text with special characters escaped, as LaTeX prints it."""
    return "".join(_ESCAPED.get(sign, sign) for sign in text)


def _table(board: Leaderboard) -> str:
    headings = ["method", "settings tried", "parameters", *(column.label for column in board.columns)]
    rows = [row for line in board.lines for row in _rows(line, board)]
    caption = "; ".join(notes(board, ("bold", "≈", "‡")))
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escaped(f'{board.title}. {caption}.')}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
            r"\toprule",
            _row([escaped(heading) for heading in headings]),
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _rows(line: BoardLine, board: Leaderboard) -> list[str]:
    name = f"{line.method} ‡" if line.on_test else line.method
    rows = [
        _row([*map(escaped, (name, tried(line), parameters(line))), *(_cell(entry, board) for entry in line.entries)])
    ]
    intervals = [interval(entry.score) if entry.score else "" for entry in line.entries]
    if any(intervals):
        small = [rf"{{\scriptsize [{escaped(text)}]}}" if text else "" for text in intervals]
        rows.append(_row(["", "", "", *small]))
    return rows


def _cell(entry: BoardEntry, board: Leaderboard) -> str:
    if entry.score is None:
        return rf"\textit{{{escaped(absent(entry))}}}"
    text = escaped(" ".join(filter(None, [figure(entry.score), fewer_seeds(entry, board)])))
    kind = entry.verdict.kind if entry.verdict else ""
    if kind == "best":
        return rf"\textbf{{{text}}}"
    return rf"{text}\,$\approx$" if kind == "tie" else text


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
