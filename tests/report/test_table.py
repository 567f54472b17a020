"""Tables in five formats: each shows every cell, and takes no name for markup."""

import csv
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from rich.console import Console

from boards import board, options
from made_up_runs import write_attempt, write_run
from peft_vision.core.table import Cell, Column, Table, csv_of, escaped_latex, latex, markdown, terminal
from peft_vision.published.tables import BENCHMARKS
from peft_vision.report.comparison import compare
from peft_vision.report.leaderboard_table import leaderboard_table

NASTY = r"""=a\|b <script>x</script> $y$ {z} _w_ 5% [red]"""
TABLE = Table(
    title=f"title {NASTY}",
    source=f"source {NASTY}",
    warning="a warning",
    notes=[f"note {NASTY}", "* the best of a column"],
    columns=[
        Column("method", words=True),
        Column("accuracy", marked=True),
        Column("published", span=f"span {NASTY}"),
        Column("measured", span=f"span {NASTY}"),
    ],
    rows=[
        [Cell(NASTY, NASTY), Cell("97.0", 0.97, kind="best", interval="95 to 98"), Cell("1.0", 1.0), Cell("1.1", 1.1)],
        [Cell("lora"), Cell("96.0", 0.96, kind="tie", count="(2)", hint=NASTY), Cell("2.0", 2.0), Cell("2.1", 2.1)],
        [Cell("full"), Cell(NASTY, kind="absent"), Cell("3.0", 3.0), Cell("3.1", 3.1)],
    ],
    records=[{"method": NASTY, "accuracy": 0.97}, {"method": "full", "accuracy": None}],
)


@pytest.fixture
def text(tmp_path) -> str:
    """With what could break it: signs in names, several data sets, a cell without a figure, ties."""
    for data in ("pets_&_dogs", "dtd#50%"):
        for seed in range(3):
            write_run(tmp_path, method="vpt_deep", data=data, source=data, seed=seed, test=0.8 + seed / 100)
            write_run(tmp_path, method="lo~ra^{x}$", data=data, source=data, seed=seed, test=0.795 + seed**2 / 100)
    write_run(tmp_path, method="full", data="dtd#50%", source="dtd#50%", test=0.1)
    write_attempt(tmp_path, method="full", data="pets_&_dogs", error="no memory")
    return latex([leaderboard_table(board(tmp_path))])


def test_special_signs_are_escaped():
    assert escaped_latex("a_b & 5% #1 {x} $y^2~\\") == (
        r"a\_b \& 5\% \#1 \{x\} \$y\textasciicircum{}2\textasciitilde{}\textbackslash{}"
    )


def test_the_best_is_bold_a_tie_marked_and_a_gap_told(text):
    assert r"\textbf{81.17 $\pm$ 2.08}" in text
    assert r"81.00 $\pm$ 1.00\,$\approx$" in text
    assert r"\textit{failed}" in text
    assert r"\textit{--- (1 of 2)}" in text


def test_every_row_has_as_many_cells_as_the_heading(text):
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.replace(r"\&", "").count("&") for line in rows} == {5}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_takes_it(text, tmp_path):
    (tmp_path / "leaderboard.tex").write_text(text)
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\input{leaderboard.tex}\\end{document}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout[-2000:]
    assert (tmp_path / "paper.pdf").is_file()


def test_markdown_has_the_same_cells_in_every_row_and_no_tag():
    text = markdown(TABLE)
    rows = [re.findall(r"(?<!\\)(?:\\\\)*\|", line) for line in text.splitlines() if line.startswith("|")]
    assert {len(found) for found in rows} == {5}
    assert len(rows) == 2 + len(TABLE.rows)
    assert "<" not in text
    assert "| **97.0 [95 to 98]** |" in text
    assert "| 96.0 (2) ≈ |" in text
    assert text.splitlines()[4].startswith("| method | accuracy | span ")
    assert text.splitlines()[5] == "| --- | ---: | ---: | ---: |"
    assert "- a warning\n- note " in text
    assert "- bold: the best of a column\n" in text


def test_a_spreadsheet_runs_no_cell_of_the_csv():
    first, second = csv.DictReader(io.StringIO(csv_of([TABLE])))
    assert first == {"method": f"'{NASTY}", "accuracy": "0.97"}
    assert second == {"method": "full", "accuracy": ""}


@pytest.mark.parametrize("width", [40, 130, 400])
def test_a_terminal_splits_a_table_but_not_the_columns_of_a_span(width):
    console = Console(width=400, record=True, file=io.StringIO())
    parts = terminal(TABLE, width=width)
    for part in parts:
        console.print(part)
    said = console.export_text()
    assert len(parts) == (2 if width < 400 else 1)
    (heading,) = [line for line in said.splitlines() if "published" in line]
    assert heading.split()[-2:] == ["published", "measured"]
    assert said.count("method") == len(parts)
    assert "97.0 [95 to 98] *" in said
    assert "96.0 (2) ≈" in said
    assert NASTY in said


class Cells(HTMLParser):
    """The texts of the cells of each table, and every tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[str]] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag, attributes) -> None:
        self.tags.add(tag)
        if tag == "table":
            self.tables.append([])
        if tag in ("th", "td"):
            self.tables[-1].append("")

    def handle_data(self, data) -> None:
        if self.tables and self.tables[-1]:
            self.tables[-1][-1] += data.strip()


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A report with all three tables, of methods that have a hostile name."""
    runs = tmp_path_factory.mktemp("runs")
    groups = BENCHMARKS["vtab"].groups
    for method in ("vpt_deep", "a|b<i>_{x}\\"):
        for seed in range(2):
            settings = {"method": method, "data": "vtab/dtd", "group": groups["vtab/dtd"], "seed": seed}
            write_run(runs, test=0.6 + seed / 10, ood={"fog": 0.25 + seed / 10}, **settings)
    compare([runs], runs / "report", options(published=("vpt_vtab",)))
    return runs / "report"


@pytest.mark.parametrize("name", ["leaderboard", "table", "published"])
def test_each_table_is_written_in_every_format_with_the_same_figures(name, out):
    texts = {form: (out / f"{name}.{form}").read_text() for form in ("md", "csv", "tex")}
    shown = {"leaderboard": "65.00", "table": "30.00", "published": "65.00"}[name]
    assert shown in texts["md"]
    assert shown in texts["tex"]
    exact = {"leaderboard": 0.65, "table": 0.3, "published": 65.0}[name]
    key = {"leaderboard": "mean", "table": "ood/fog/accuracy mean", "published": "measured"}[name]
    rows = list(csv.DictReader(io.StringIO(texts["csv"])))
    assert any(row[key] and float(row[key]) == pytest.approx(exact) for row in rows)
    assert "<i>" not in texts["md"]
    assert r"a\textbar{}b\textless{}i" in texts["tex"] or name == "published"


def test_the_page_shows_all_three_tables_and_takes_no_name_for_a_tag(out):
    page = (out / "report.html").read_text()
    found = Cells(page)
    assert "i" not in found.tags
    board_cells, published, shifts, *_ = found.tables
    assert "a|b<i>_{x}\\" in board_cells
    assert "a|b<i>_{x}\\" in shifts
    assert "30.00 ± 7.07" in shifts
    assert "65.00 ± 7.07" in published


def test_a_page_without_scores_out_of_distribution_has_no_table_of_them(tmp_path):
    write_run(tmp_path / "runs")
    compare([tmp_path / "runs"], tmp_path / "out", options())
    assert 'id="shifts"' not in (tmp_path / "out" / "report.html").read_text()
