"""`peft-vision task=report`: what a person sees and finds after a sweep."""

import json
import re
import subprocess
import sys

import pytest
from PIL import Image

from command import call
from made_up_runs import write_run


@pytest.fixture
def runs(tmp_path):
    """Two methods of two seeds, and a run that was killed."""
    for seed in range(2):
        for number, method in enumerate(["full", "lp_ft"]):
            test = 0.5 + 0.1 * seed + 0.15 * number
            curve = {0.0: (0.3, 0.2), 1.0: (test, 0.4)}
            ood = {"fog": 0.4 + 0.1 * seed, "snow": 0.3}
            write_run(tmp_path / "runs", method=method, seed=seed, test=test, ood=ood, curve=curve, alpha=1.0)
    (tmp_path / "runs" / "killed").mkdir()
    (tmp_path / "runs" / "killed" / "state.pt").write_bytes(b"")
    return tmp_path


PICTURES = [f"digits-vit_micro-{name}.png" for name in ("scatter", "alpha", "shifts")]


def test_it_prints_the_table_and_writes_table_and_pictures(runs):
    outcome = call("task=report", "runs=runs", cwd=runs)
    assert (outcome.code, outcome.err) == (0, "")
    (row,) = [line for line in outcome.out.splitlines() if line.startswith("lp_ft  ")]
    assert "70.00 ± 7.07" in row
    assert "left out  killed: not finished" in outcome.out
    assert f"written   runs/report: table.md, .csv and .json, {', '.join(PICTURES)}\n" in outcome.out
    out = runs / "runs" / "report"
    assert sorted(path.name for path in out.iterdir()) == sorted([*PICTURES, "table.csv", "table.json", "table.md"])
    for name in PICTURES:
        with Image.open(out / name) as picture:
            assert picture.format == "PNG"
            assert [round(dpi) for dpi in picture.info["dpi"]] == [150, 150]
    assert "- killed: not finished" in (out / "table.md").read_text()
    assert json.loads((out / "table.json").read_text())["left_out"] == [{"folder": "killed", "reason": "not finished"}]


def test_it_says_the_same_again_and_takes_its_own_files_for_no_run(runs):
    first, second = (call("task=report", "runs=runs", cwd=runs) for _ in range(2))
    assert first == second


def test_reference_transform_and_place_can_be_chosen(runs):
    options = ("task.reference=null", "task.transform=logit", "out=elsewhere")
    outcome = call("task=report", "runs=runs", *options, cwd=runs)
    assert "logit(OOD)" in outcome.out
    assert "through 4 runs of all methods" in outcome.out
    assert (runs / "elsewhere" / "table.md").is_file()
    assert not (runs / "runs" / "report").exists()


def test_runs_that_were_not_scored_out_of_distribution_are_a_table_without_pictures(tmp_path):
    write_run(tmp_path / "runs")
    outcome = call("task=report", cwd=tmp_path)
    assert "no run was scored out of distribution" in outcome.out
    assert sorted(path.suffix for path in (tmp_path / "runs" / "report").iterdir()) == [".csv", ".json", ".md"]


def test_two_comparisons_of_one_name_have_pictures_of_their_own(tmp_path):
    for number in range(2):
        source = f"digits: {number} train images"
        write_run(tmp_path / "runs" / str(number), source=source, ood={"fog": 0.5})
    assert call("task=report", cwd=tmp_path).code == 0
    pictures = {path.name for path in (tmp_path / "runs" / "report").glob("*.png")}
    assert pictures == {f"digits-vit_micro-{number}-{name}.png" for number in (1, 2) for name in ("scatter", "shifts")}


def test_a_full_or_forbidden_disk_is_one_clear_line(runs):
    said = call("task=report", "runs=runs", "out=/dev/null/here", cwd=runs).error
    assert said.startswith("cannot write /dev/null/here: ")
    assert said.endswith("set out=FOLDER to a folder that can be made and written")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("runs=nowhere", "runs: no folder .*/nowhere"),
        ("runs=empty", "runs: no finished run in .*/empty"),
        ("runs=begun", "runs: no finished run in .*/begun; killed: not finished"),
        ("task.transform=log", "task.transform: got 'log', should be 'probit' or 'logit'"),
        ("task.reference=full", "task.reference: got 'full', should be a list"),
        ("task.reference=[]", "task.reference: .*at least 1 item.*"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(arguments, said, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun" / "killed").mkdir(parents=True)
    (tmp_path / "begun" / "killed" / "metrics.jsonl").write_text("")
    outcome = call("task=report", *arguments.split(), cwd=tmp_path)
    assert re.fullmatch(said, outcome.error), outcome.error
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["begun", "empty", "killed", "metrics.jsonl"]


def test_matplotlib_is_imported_only_to_draw():
    script = "import sys, peft_vision.task.report; print('matplotlib' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "False"
