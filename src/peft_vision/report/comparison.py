"""This module turns folders of finished runs into a report: tables, pictures and a page."""

import gc
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from peft_vision.core.output import Console
from peft_vision.core.sharing import Lock
from peft_vision.report.beside import PublishedComparison, beside
from peft_vision.report.beside_text import (
    beside_csv,
    beside_heading,
    beside_latex,
    beside_notes,
    beside_tables,
    by_table,
)
from peft_vision.report.board_table import board_csv, board_rows, board_tables
from peft_vision.report.board_text import notes
from peft_vision.report.collect import LeftOut, collect
from peft_vision.report.id_ood import Comparison, comparisons
from peft_vision.report.latex import latex
from peft_vision.report.leaderboard import Leaderboard, leaderboards
from peft_vision.report.options import Options
from peft_vision.report.shift_record import record
from peft_vision.report.shift_table import comparisons_csv, markdown, remarks, rich_tables
from peft_vision.runs.run import attempt, place, tidy, writing

_log = logging.getLogger("peft_vision")
_WIDEST = 200  # columns, where the output is not a terminal


@dataclass(frozen=True)
class ReportContent:
    """The contents of a report. `rows`: of the leaderboard, as in leaderboard.csv. `pictures`: files by picture name,
    in the first of the requested formats. `page`: the HTML file."""

    rows: tuple[Mapping[str, Any], ...]
    pictures: Mapping[str, Path]
    page: Path


def compare(folders: Sequence[Path], out: Path, options: Options) -> ReportContent:
    """Print the tables of the runs below `folders`, and write them, the pictures and the page to `out`. ConfigError
    where there is no finished run."""
    runs, left_out = collect(*folders)
    compared = comparisons(
        runs, reference=options.reference, transform=options.transform, rows=options.rows, costs=options.costs
    )
    boards = leaderboards(compared, runs, left_out, options)
    against = beside(boards, options.published)
    texts = {
        "table.md": _document(compared, left_out),
        "table.csv": comparisons_csv(compared),
        "table.json": _json(compared, left_out),
        "leaderboard.csv": board_csv(boards),
        "leaderboard.tex": latex(boards),
        **({"published.csv": beside_csv(against), "published.tex": beside_latex(against)} if against else {}),
    }
    # here, because importing the drawing modules takes most of a second
    from peft_vision.report.gallery import save_figure
    from peft_vision.report.page import page
    from peft_vision.report.pictures import pictures

    with _alone(out) as is_first, _settled():
        hung = [save_figure(picture, out, options.pictures) for picture in pictures(boards)]
        texts["report.html"] = page(boards, against, runs, left_out, hung, out)
        for name, text in texts.items():
            place(out / name, lambda path, text=text: path.write_text(text, encoding="utf-8"), key="out")
        if is_first:
            attempt(out, anew=True)
    _print(boards, compared, against, left_out)
    if options.published and not against:
        _log.warning("no run here is of a method and a data set of %s", ", ".join(options.published))
    made = ", ".join([*sorted(texts), *([f"{len(hung)} picture{'s' if hung[1:] else ''}"] if hung else [])])
    Console().print(f"written   {out}: {made}", soft_wrap=True)
    files = {saved.picture.name: saved.files[0] for saved in hung if saved.files}
    return ReportContent(tuple(board_rows(boards)), files, out / "report.html")


@contextmanager
def _alone(out: Path) -> Iterator[bool]:
    """Create the folder and hold its lock within the block, because two sweeps over the same runs may end together.
    Yield whether nothing was in the folder."""
    with writing(out, key="out"):
        out.mkdir(parents=True, exist_ok=True)
        lock = Lock(out / ".lock")
        lock.acquire(wait=True)
    try:
        tidy(out)
        yield all(path.name == ".lock" for path in out.iterdir())
    finally:
        lock.release()


@contextmanager
def _settled() -> Iterator[None]:
    """Freeze the garbage collector's present objects within the block: torch alone has a million, and scanning them
    again and again while pictures are drawn takes a sixth of a report's time."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _print(
    boards: Sequence[Leaderboard],
    compared: Sequence[Comparison],
    against: Sequence[PublishedComparison],
    left_out: Sequence[LeftOut],
) -> None:
    console = Console()
    width = console.width if console.is_terminal else _WIDEST
    wide = Console(width=width)

    def say(text: str) -> None:
        console.print(text, soft_wrap=True)

    def section(heading: str, tables: Sequence[Table], said: Sequence[str]) -> None:
        say(f"{heading}\n")
        for table in tables:
            wide.print(table, "")
        for remark in said:
            say(f"- {remark}")
        say("")

    for board in boards:
        section(f"leaderboard, {board.title}", board_tables(board, width=width), notes(board))
    for comparison in compared:
        section(f"{comparison.title}: {comparison.source}", rich_tables(comparison, width=width), remarks(comparison))
    for found in by_table(against):
        section(beside_heading(found), beside_tables(found, width=width), beside_notes(found))
    for run in left_out:
        say(f"left out  {run.folder}: {run.reason}")


def _document(compared: Sequence[Comparison], left_out: Sequence[LeftOut]) -> str:
    parts = [markdown(comparison) for comparison in compared]
    if left_out:
        parts.append("## Left out\n\n" + "".join(f"- {run.folder}: {run.reason}\n" for run in left_out))
    return "\n".join(parts)


def _json(compared: Sequence[Comparison], left_out: Sequence[LeftOut]) -> str:
    everything = {
        "comparisons": [record(comparison) for comparison in compared],
        "left_out": [{"folder": run.folder, "reason": run.reason} for run in left_out],
    }
    return json.dumps(everything, indent=2, allow_nan=False) + "\n"


def draw(comparison: Comparison, out: Path, stem: str) -> list[str]:
    """Draw the pictures to `<stem>-<picture>.png` in `out` and return the file names; none without a run scored out of
    distribution."""
    if not comparison.sets:
        return []
    # here, because the import takes most of a second
    from peft_vision.report.gallery import save_png
    from peft_vision.report.pictures import SHIFT_PICTURES

    drawn: list[str] = []
    for name, drawn_by in SHIFT_PICTURES.items():
        if (figure := drawn_by(comparison)) is not None:
            drawn.append(f"{stem}-{name}.png")
            save_png(figure, out / drawn[-1])
    return drawn
