"""`peft-vision task=reproduce`: a paper's table, run, killed, gone on with, and set beside what was published."""

import csv
import io
import json
import shlex
from pathlib import Path

import pytest

from command import IN_THIS_PROCESS, call, results, start, wait_for
from digit_folders import write_digits
from peft_vision.core.config import CONFIG_DIR
from peft_vision.sweep.point import Composer
from vtab_miniatures import processed

TABLE = (
    *("task=reproduce", "experiment=vtab/vpt", "method=vpt_shallow,vpt_deep", "data=vtab/dtd,vtab/svhn"),
    "data.source=processed",
    *("data.miniature=true", "backbone=vit_micro", "backbone.architecture.depth=2", "backbone.checkpoint=null"),
    *("method.num_prompts=2", "optimizer.lr=0.1", "optimizer.weight_decay=0", "trainer.batch_size=8"),
    *("trainer.epochs=1", "hydra.sweeper.seeds=[0,1]", "tracker=none"),
)
TASKS = ("DTD", "SVHN")
PROVES_NOTHING = "miniature data: these figures prove nothing about accuracy"


def copy(folder: Path) -> Path:
    for task in ("dtd", "svhn"):
        processed(folder / "datasets" / "vtab-1k" / task, task, (16, 8, 12))
    return folder


def report(folder: Path) -> Path:
    return folder / "runs" / "vtab" / "vpt" / "report"


def compared(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((report(folder) / "published.csv").read_text())))


def metrics(folder: Path) -> dict[str, dict[str, float]]:
    """By run."""
    return {path.parent.name: json.loads(path.read_text())["metrics"] for path in results(folder)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The outcome of the undisturbed table, and its folder."""
    folder = copy(tmp_path_factory.mktemp("whole"))
    return call(*TABLE, cwd=folder, reports=True), folder


def test_it_ends_in_the_comparison(whole):
    outcome, folder = whole
    assert outcome.code == 0, outcome.err
    assert "VPT, VTAB-1k, ViT-B/16 of ImageNet-21k: published and measured on vit_micro" in outcome.out
    assert len(results(folder)) == 4 + 8  # settings tried, then two seeds of what was chosen
    rows = compared(folder)
    assert {row["method"] for row in rows} == {"vpt_shallow", "vpt_deep"}
    scored = [row for row in rows if row["kind"] == "data" and row["status"] == "scored"]
    assert [(row["method"], row["column"], row["published"], row["n"]) for row in scored] == [
        ("vpt_shallow", "DTD", "62.6", "2"),
        ("vpt_shallow", "SVHN", "74.5", "2"),
        ("vpt_deep", "DTD", "65.8", "2"),
        ("vpt_deep", "SVHN", "78.1", "2"),
    ]
    for row in scored:
        assert float(row["difference"]) == pytest.approx(float(row["measured"]) - float(row["published"]))


def test_what_was_not_run_is_missing_and_in_no_mean(whole):
    rows = [row for row in compared(whole[1]) if row["method"] == "vpt_deep"]
    assert sum(row["status"] == "missing" for row in rows) == 17
    means = {row["column"]: (row["published"], row["measured"], row["status"]) for row in rows if row["kind"] != "data"}
    assert means["mean of 19"] == ("69.43", "", "2 of 19")
    assert means["mean of 3 groups"][1:] == ("", "2 of 19")
    assert means["natural (7)"][1:] == ("", "2 of 7")
    assert float(means["mean of the 2 measured"][0]) == pytest.approx((65.8 + 78.1) / 2)


def test_it_says_that_miniatures_prove_nothing(whole):
    outcome, folder = whole
    assert f"- {PROVES_NOTHING}\n" in outcome.out
    assert {row["miniature"] for row in compared(folder)} == {"True"}
    assert PROVES_NOTHING in (report(folder) / "published.tex").read_text()
    assert PROVES_NOTHING.capitalize() in (report(folder) / "report.html").read_text()
    result = json.loads(results(folder)[0].read_text())
    assert result["data"]["provenance"]["miniature"] == "proves nothing about accuracy"
    assert result["data"]["group"] == "natural"


def test_every_test_set_was_read_once_and_by_final_runs_alone(whole):
    found = [json.loads(path.read_text()) for path in results(whole[1])]
    reads = {
        stage: [result["test_reads"] for result in found if result["config"]["data"]["stage"] == stage]
        for stage in ("tune", "final")
    }
    assert reads == {"tune": [0] * 4, "final": [1] * 8}


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_to_the_same_table(whole, tmp_path):
    copy(tmp_path)
    killed = start(*TABLE, IN_THIS_PROCESS, cwd=tmp_path)
    wait_for(lambda: len(results(tmp_path)) >= 5, killed)  # a final run or two are done
    killed.kill()
    killed.communicate()
    before = {path: path.stat().st_mtime_ns for path in results(tmp_path)}
    assert len(before) < 12
    again = call(*TABLE, cwd=tmp_path, reports=True)
    assert (again.code, again.err) == (0, "")
    assert PROVES_NOTHING in again.out
    assert {path: path.stat().st_mtime_ns for path in before} == before  # none was done twice
    assert metrics(tmp_path) == metrics(whole[1])
    assert (report(tmp_path) / "published.csv").read_text() == (report(whole[1]) / "published.csv").read_text()


def test_without_a_table_nothing_starts(tmp_path):
    outcome = call("task=reproduce", "experiment=demo", cwd=tmp_path)
    assert outcome.code == 1
    assert outcome.err.startswith("peft-vision: task=reproduce: no table to compare with; write experiment=vtab/vpt")
    assert results(tmp_path) == []


def test_a_table_that_does_not_exist_is_said_before_anything_starts(tmp_path):
    outcome = call("task=reproduce", "experiment=demo", "hydra.sweeper.report.published=[vpt_vtap]", cwd=tmp_path)
    assert outcome.code == 1
    assert "no table 'vpt_vtap'" in outcome.err
    assert results(tmp_path) == []


@pytest.fixture
def composed(monkeypatch) -> list[tuple[str, ...]]:
    """The points that a sweep has looked at."""
    looked = []
    original = Composer.request

    def counted(self, overrides):
        looked.append(tuple(overrides))
        return original(self, overrides)

    monkeypatch.setattr(Composer, "request", counted)
    return looked


def test_a_folder_that_is_not_there_is_said_after_a_look_at_one_point_of_each_data_set(composed, tmp_path):
    asked = ("task=reproduce", "experiment=vtab/vpt", "data.source=processed", "data.root=nowhere")
    outcome = call(*asked, cwd=tmp_path)
    first, *_, last = outcome.error.splitlines()
    expected = f"data.root: no folder {tmp_path}/nowhere, which should hold 4 parts of VTAB-1k's Caltech101"
    assert first.startswith(expected)
    assert last == "nor can the sweep use its other 18 choices of data"
    assert len(composed) == 19  # of some 10,000
    assert results(tmp_path) == []


def test_data_sets_that_a_folder_lacks_are_named_at_once(composed, tmp_path):
    copy(tmp_path)
    asked = ("task=reproduce", "experiment=vtab/vpt", "data.source=processed", "data.miniature=true")
    outcome = call(*asked, cwd=tmp_path)
    first, *faults, others = outcome.error.splitlines()
    assert first == "17 of the sweep's 19 choices of data are wrong, and nothing was started"
    assert [line.partition(": ")[0] for line in faults] == [
        f"  data=vtab/{name}" for name in ("caltech101", "cifar100", "flowers102")
    ]
    assert others.count("data=vtab/") == 14
    assert "vtab/dtd" not in others + "".join(faults)
    assert len(composed) == 19


def test_what_is_done_needs_no_data_whatever_else_a_large_sweep_lacks(tmp_path, composed):
    """The first point of the data was run; the folder is gone; the next one is what cannot be run."""
    grid = ("-m", "experiment=smoke", "method=linear", f"seed={','.join(map(str, range(120)))}")
    pictures = ("data=image_folder", "data.path=digits")
    write_digits(tmp_path)
    assert call("experiment=smoke", "method=linear", "seed=0", *pictures, cwd=tmp_path).code == 0
    (tmp_path / "digits").rename(tmp_path / "elsewhere")
    composed.clear()
    assert call(*grid, *pictures, cwd=tmp_path).error.startswith("data.path: ")
    assert len(composed) == 2


def test_an_own_method_enters_the_protocol_by_the_way_that_the_refusal_names(tmp_path):
    """What it says is done as it stands, with fewer values to try."""
    copy(tmp_path)
    folder = tmp_path / "mine" / "method"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text((CONFIG_DIR / "method" / "vpt_deep.yaml").read_text())
    asked = [word for word in TABLE if not word.startswith(("method", "optimizer", "trainer.epochs", "data=", "hydra"))]
    asked += ["--config-dir", "mine", "method=mine", "data=vtab/dtd", "trainer.epochs=1", "hydra.sweeper.seeds=[0]"]
    refused = call(*asked, cwd=tmp_path).error
    assert refused.startswith("method: no grid of this sweep is of mine; there are bitfit, full, linear, ")
    (named,) = shlex.split(refused.partition("; add one: ")[2])
    assert call(*asked, named, cwd=tmp_path).code == 0
    found = [json.loads(path.read_text()) for path in results(tmp_path)]
    tried = {result["config"]["optimizer"]["lr"] for result in found if result["config"]["data"]["stage"] == "tune"}
    assert tried == {1e-3, 1e-2}
    assert {result["choices"]["method"] for result in found} == {"mine"}
    assert sum(result["config"]["data"]["stage"] == "final" for result in found) == 1
