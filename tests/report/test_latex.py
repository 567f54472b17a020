"""The table for a paper: every sign as LaTeX wants it, and LaTeX takes it."""

import shutil
import subprocess

import pytest

from boards import board
from made_up_runs import write_attempt, write_run
from peft_vision.report.latex import escaped, latex


@pytest.fixture
def text(tmp_path) -> str:
    """With what could break it: signs in names, several data sets, a cell without a figure, ties."""
    for data in ("pets_&_dogs", "dtd#50%"):
        for seed in range(3):
            write_run(tmp_path, method="vpt_deep", data=data, source=data, seed=seed, test=0.8 + seed / 100)
            write_run(tmp_path, method="lo~ra^{x}$", data=data, source=data, seed=seed, test=0.795 + seed**2 / 100)
    write_run(tmp_path, method="full", data="dtd#50%", source="dtd#50%", test=0.1)
    write_attempt(tmp_path, method="full", data="pets_&_dogs", error="no memory")
    return latex([board(tmp_path)])


def test_special_signs_are_escaped():
    assert escaped("a_b & 5% #1 {x} $y^2~\\") == (
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
