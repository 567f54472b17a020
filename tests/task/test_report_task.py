"""`peft-vision task=report`: what a person sees and finds after a sweep."""

import json
import re

import pytest
from PIL import Image

from command import call, start
from made_up_runs import write_attempt, write_run


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


PICTURES = [f"digits-vit_micro-{name}" for name in ("pareto", "scatter", "alpha", "shifts")]
TEXTS = ["leaderboard.csv", "leaderboard.md", "leaderboard.tex", "report.html"]
TEXTS += ["table.csv", "table.json", "table.md", "table.tex"]


def test_it_prints_the_table_and_writes_table_and_pictures(runs):
    outcome = call("task=report", "runs=runs", cwd=runs)
    assert (outcome.code, outcome.err) == (0, "")
    (row,) = [line for line in outcome.out.splitlines() if line.startswith("lp_ft  ")]
    assert "70.00 ± 7.07" in row
    assert "left out  killed: not finished" in outcome.out
    assert f"written   runs/report: {', '.join(TEXTS)}, 4 pictures\n" in outcome.out
    out = runs / "runs" / "report"
    pictures = [f"{name}.{form}" for name in PICTURES for form in ("png", "svg")]
    assert visible(out) == sorted([*pictures, *TEXTS])
    for name in PICTURES:
        with Image.open(out / f"{name}.png") as picture:
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
    report = tmp_path / "runs" / "report"
    assert visible(report) == TEXTS
    said = [
        outcome.out,
        *(path.read_text() for path in report.rglob("*") if path.suffix in {".md", ".csv", ".json", ".html"}),
    ]
    assert not [text for text in said if "effective robustness" in text.lower()]


def test_several_folders_are_one_report_in_the_first(tmp_path):
    write_run(tmp_path / "here", seed=0, test=0.6)
    write_run(tmp_path / "there", seed=1, test=0.8)
    outcome = call("task=report", "runs=[here,there]", cwd=tmp_path)
    assert "70.00 ± 14.14" in outcome.out
    assert (tmp_path / "here" / "report" / "report.html").is_file()
    assert not (tmp_path / "there" / "report").exists()


def test_groups_of_data_sets_and_formats_of_pictures_can_be_chosen(tmp_path):
    for data in ("pets", "dtd"):
        for method in ("full", "lora"):
            write_run(tmp_path / "runs", method=method, data=data, source=data)
    groups = "task.groups={natural: [pets, svhn], textures: [dtd]}"
    outcome = call("task=report", groups, "task.pictures=[svg]", cwd=tmp_path)
    for heading in ("natural (1 of 2)", "textures (1)", "mean of 2 groups", "mean of 2 data sets"):
        assert heading in outcome.out
    assert {path.suffix for path in (tmp_path / "runs" / "report").iterdir()} >= {".svg", ".html"}
    assert list((tmp_path / "runs" / "report").glob("*.png")) == []


def test_a_failed_run_is_a_cell_that_says_so_and_a_line_with_its_reason(runs):
    write_attempt(runs / "runs", method="lora", error="the training loss became nan\ntry a smaller optimizer.lr")
    outcome = call("task=report", "runs=runs", cwd=runs)
    (line,) = [line for line in outcome.out.splitlines() if re.match(r"\d +lora ", line)]
    assert line.split()[-1] == "failed"
    assert "left out  lora-vit_micro-digits-s0-0.001: failed: the training loss became nan" in outcome.out


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
        ("runs=[]", r"runs: got \[\], should be a folder or a list of folders"),
        ("runs=null", "runs: got None, should be a folder or a list of folders"),
        ("runs=[empty,nowhere]", "runs: no folder .*/nowhere"),
        ("task.pictures=[gif]", "task.pictures.0: got 'gif', should be 'png' or 'svg'"),
        ("task.groups=[pets]", "task.groups: got .*"),
        ("task.reference=[]", "task.reference: got \\[\\], should have at least 1"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(arguments, said, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun" / "killed").mkdir(parents=True)
    (tmp_path / "begun" / "killed" / "metrics.jsonl").write_text("")
    outcome = call("task=report", *arguments.split(), cwd=tmp_path)
    assert re.fullmatch(said, outcome.error), outcome.error
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["begun", "empty", "killed", "metrics.jsonl"]


def test_what_draws_and_tests_is_imported_only_then(tmp_path):
    script = (
        "import sys, peft_vision.task.report; print({'matplotlib', 'scipy.special', 'scipy.stats'} & {*sys.modules})"
    )
    out, _ = start(cwd=tmp_path, program=("-c", script), fresh=True).communicate(timeout=60)
    assert out == "set()\n"


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
