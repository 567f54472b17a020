"""This module turns folders of finished runs into a report: tables, pictures and a page."""

import gc
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft_vision.core.output import Console
from peft_vision.core.sharing import Lock
from peft_vision.core.table import Table, csv_of, escaped_markdown, latex, markdown, terminal
from peft_vision.objective.base import ACCURACY
from peft_vision.report.collect import LeftOut, collect
from peft_vision.report.id_ood import Comparison, comparisons, unknown_keys
from peft_vision.report.leaderboard import leaderboards
from peft_vision.report.leaderboard_table import leaderboard_table
from peft_vision.report.options import Options
from peft_vision.report.per_class import class_report
from peft_vision.report.published_comparison import published_comparisons, published_tables
from peft_vision.report.shift_table import record, shift_tables
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
    for message in unknown_keys(runs, options.rows):
        _log.warning("%s", message)
    compared = comparisons(
        runs, reference=options.reference, transform=options.transform, rows=options.rows, costs=options.costs
    )
    shown = [one for one in compared if one.metric == ACCURACY or one.sets]
    boards = leaderboards(compared, runs, left_out, options)
    tables = {
        "leaderboard": [leaderboard_table(board) for board in boards],
        "table": shift_tables(shown),
        "published": published_tables(published_comparisons(boards, options.published)),
    }
    texts: dict[str, str] = {}
    for name, found in tables.items():
        if found:
            texts |= {f"{name}.csv": csv_of(found), f"{name}.md": _document(found), f"{name}.tex": latex(found)}
    texts["table.json"] = _json(compared, left_out)
    texts["table.md"] = texts.get("table.md", "") + _left_out(left_out)  # of tuning runs alone there is no table
    # here, because importing the drawing modules takes most of a second
    from peft_vision.report.page import page
    from peft_vision.report.pictures import file_stems, pictures, save_figure

    scored = [table for table, comparison in zip(tables["table"], shown, strict=True) if comparison.sets]
    on_page = {"leaderboard": tables["leaderboard"], "published": tables["published"], "shifts": scored}
    classes = class_report(boards, file_stems(boards))
    of_each_class = classes.files()
    with _alone(out) as is_first, _settled():
        drawn = [save_figure(picture, out, options.pictures) for picture in pictures(boards, classes)]
        texts["report.html"] = page(boards, on_page, classes, runs, left_out, drawn, out)
        for name, text in {**texts, **of_each_class}.items():
            place(out / name, lambda path, text=text: path.write_text(text, encoding="utf-8"), key="out")
        if is_first:
            attempt(out, anew=True)
    _print([table for found in tables.values() for table in found], left_out)
    if options.published and not tables["published"]:
        _log.warning("no run here is of a method and a data set of %s", ", ".join(options.published))
    made = [*sorted(texts), *(["tables of each class"] if of_each_class else [])]
    made += [f"{len(drawn)} picture{'s' if drawn[1:] else ''}"] if drawn else []
    Console().print(f"written   {out}: {', '.join(made)}", soft_wrap=True)
    files = {saved.picture.name: saved.files[0] for saved in drawn if saved.files}
    rows = tuple(record for table in tables["leaderboard"] for record in table.records)
    return ReportContent(rows, files, out / "report.html")


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
    again and again while pictures are drawn takes a sixth of a report's time. Ignore the warnings of letters of class
    names that matplotlib's font lacks, for which it draws boxes."""
    gc.freeze()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            yield
    finally:
        gc.unfreeze()


def _print(tables: Sequence[Table], left_out: Sequence[LeftOut]) -> None:
    console = Console()
    width = console.width if console.is_terminal else _WIDEST
    wide = Console(width=width)
    for table in tables:
        console.print(f"{table.caption}\n", soft_wrap=True)
        for part in terminal(table, width=width):
            wide.print(part, "")
        for remark in table.remarks(bold=False):
            console.print(f"- {remark}", soft_wrap=True)
        console.print("")
    for run in left_out:
        console.print(f"left out  {run.folder}: {run.reason}", soft_wrap=True)


def _document(tables: Sequence[Table]) -> str:
    return "\n".join(map(markdown, tables))


def _left_out(left_out: Sequence[LeftOut]) -> str:
    """Return the excluded runs as a section in Markdown; empty where there are none."""
    lines = [f"- {escaped_markdown(f'{run.folder}: {run.reason}')}\n" for run in left_out]
    return f"\n## Left out\n\n{''.join(lines)}" if lines else ""


def _json(compared: Sequence[Comparison], left_out: Sequence[LeftOut]) -> str:
    everything = {
        "comparisons": [record(comparison) for comparison in compared],
        "left_out": [{"folder": run.folder, "reason": run.reason} for run in left_out],
    }
    return json.dumps(everything, indent=2, allow_nan=False) + "\n"


def draw(comparison: Comparison, out: Path, stem: str) -> list[str]:
    """Draw the pictures to `<stem>-<picture>.png` in `out` and return the file names; none without accuracies out of
    distribution."""
    if not comparison.sets or comparison.metric != ACCURACY:
        return []
    # here, because the import takes most of a second
    from peft_vision.report.pictures import SHIFT_PICTURES, save_png

    drawn: list[str] = []
    for name, drawn_by in SHIFT_PICTURES.items():
        if (figure := drawn_by(comparison)) is not None:
            drawn.append(f"{stem}-{name}.png")
            save_png(figure, out / drawn[-1])
    return drawn
