"""A sweep of which a point fails: the others run, the table comes, and what failed is tried again when asked to."""

import json
import re
import shutil
from pathlib import Path

import pytest

from command import IN_THIS_PROCESS, SMOKE, call, results, start, wait_for
from peft_vision.runs.run import DiskFault, Run
from peft_vision.task import session
from test_resume import HALTED

DIVERGES = "optimizer.lr=0.1,1e+30"  # of which the second does
SWEEP = ("-m", *SMOKE, "optimizer=sgd", DIVERGES)


@pytest.fixture(scope="module")
def swept_once(nobodys_store, tmp_path_factory) -> Path:
    """Where that sweep was run. Nothing may change it: tests take a copy."""
    folder = tmp_path_factory.mktemp("swept")
    assert call(*SWEEP, cwd=folder).code == 1
    return folder


@pytest.fixture
def swept(swept_once, tmp_path) -> Path:
    return shutil.copytree(swept_once, tmp_path, dirs_exist_ok=True)


def failures(folder: Path) -> list[Path]:
    return sorted(folder.rglob("failed.json"))


def refuse(monkeypatch, error: BaseException) -> None:
    """Every training ends in `error`."""

    def refused(*_, **__):
        raise error

    monkeypatch.setattr(session, "fit_phases", refused)


def test_it_ends_in_a_list_of_what_failed_and_why(tmp_path):
    outcome = call(*SWEEP, "seed=0,1", cwd=tmp_path)
    assert outcome.code == 1
    assert len(results(tmp_path)) == 2
    *_, account, first, second, remedy, retry = outcome.err.splitlines()
    assert account == "peft-vision: 2 of the sweep's 4 points failed"
    for seed, line in enumerate((first, second)):
        assert line.startswith(f"  optimizer.lr=1e+30 seed={seed}: the training loss became ")
    assert remedy.startswith("try a smaller optimizer.lr, ")  # once for both
    assert retry == "task.retry=true tries again what failed by itself"


def test_a_point_that_failed_says_so_again_without_training(swept, monkeypatch):
    refuse(monkeypatch, AssertionError("trained"))
    outcome = call(*SWEEP, cwd=swept)
    assert outcome.code == 1
    assert "lr=1e+30: failed before: the training loss became" in outcome.err
    assert outcome.err.endswith("task.retry=true tries again what failed by itself\n")
    assert re.search("^run 1/2  before  optimizer.lr=0.1 .* test ", outcome.out, re.M)


def test_it_is_tried_again_when_asked_to_and_forgotten_once_it_is_done(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        refuse(patch, RuntimeError("out of memory\nof some device"))
        outcome = call(*SWEEP, cwd=tmp_path)
    assert outcome.code == 1
    assert "Traceback" in outcome.err  # no mistake of the user's
    assert outcome.err.splitlines()[-3:-1] == [
        "  optimizer.lr=0.1: RuntimeError: out of memory",
        "  optimizer.lr=1e+30: RuntimeError: out of memory",
    ]
    assert len(failures(tmp_path)) == 2
    record = json.loads(failures(tmp_path)[0].read_text())
    assert record["error"] == "RuntimeError: out of memory"
    assert record["traceback"].startswith("Traceback")
    assert call(*SWEEP, cwd=tmp_path).err.splitlines()[-4].endswith("2 of the sweep's 2 points failed")

    outcome = call(*SWEEP, "task.retry=true", cwd=tmp_path)
    assert "1 of the sweep's 2 points failed" in outcome.err
    (failed,) = failures(tmp_path)
    assert "the training loss became" in json.loads(failed.read_text())["error"]
    (done,) = results(tmp_path)
    assert done.parent != failed.parent


def test_one_run_is_tried_again_without_being_asked(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        refuse(patch, RuntimeError("out of memory"))
        with pytest.raises(RuntimeError, match="out of memory"):
            call(*SMOKE, cwd=tmp_path)
    assert len(failures(tmp_path)) == 1
    assert "failed before: RuntimeError: out of memory" in call(*SMOKE, "task.retry=false", cwd=tmp_path).error
    assert call(*SMOKE, cwd=tmp_path).code == 0
    assert (len(failures(tmp_path)), len(results(tmp_path))) == (0, 1)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DiskFault("cannot write")], ids=repr)
def test_what_is_no_fault_of_the_run_is_not_held_against_it(error, tmp_path, monkeypatch):
    refuse(monkeypatch, error)
    assert call(*SWEEP, cwd=tmp_path).code == 1
    assert failures(tmp_path) == []


@pytest.mark.parametrize("content", ['{"metrics": {', "[]", b"\xff\xfe\x00"], ids=["torn", "a list", "no text"])
@pytest.mark.parametrize("name", ["result.json", "failed.json"])
def test_a_record_that_cannot_be_read_is_named_and_the_other_points_run(name, content, swept):
    torn = next(swept.rglob(name))
    torn.write_bytes(content if isinstance(content, bytes) else content.encode())
    outcome = call(*SWEEP, "seed=0,1", cwd=swept)
    assert f": cannot read {torn}: " in outcome.err
    assert torn.exists()
    assert f"{3 if name == 'result.json' else 2} of the sweep's 4 points failed" in outcome.err
    assert "Traceback" not in outcome.err
    assert '"seed": 1' in results(swept)[-1].read_text()


def test_the_reason_is_kept_where_it_can_be(tmp_path, monkeypatch):
    """A disk that is full afterwards does not hide what was wrong."""
    run = Run(tmp_path / "missing")
    with pytest.raises(ValueError, match="wrong"), run.watched():
        raise ValueError("wrong")


def test_the_report_comes_nevertheless_and_names_what_failed(tmp_path):
    outcome = call(*SWEEP, cwd=tmp_path, reports=True)
    assert outcome.code == 1
    assert "1 of the sweep's 2 points failed" in outcome.err
    table = json.loads((tmp_path / "runs" / "report" / "table.json").read_text())
    (left_out,) = table["left_out"]
    assert left_out["reason"].startswith("failed: the training loss became ")
    assert f"left out  {left_out['folder']}: failed: " in outcome.out
    assert left_out["folder"] in (tmp_path / "runs" / "report" / "report.html").read_text()


def complaints(err: str) -> list[str]:
    """What is no progress of a training, which shows where it takes seconds."""
    return [line for line in err.splitlines() if not line.startswith("training ")]


# each sweep trains by itself: that a pool's runs tell it that another process is at them is told in launch/test_pool.py
FIVE = (*SMOKE, "trainer.epochs=5", "tracker=none", IN_THIS_PROCESS)


@pytest.mark.slow
def test_sweeps_started_together_share_the_points(tmp_path):
    """No run done twice, none lost, and each of the sweeps sees the results of all."""
    arguments = ("-m", *FIVE, "seed=0,1,2,3")
    workers = [start(*arguments, cwd=tmp_path) for _ in range(2)]
    ended = [(*worker.communicate(timeout=240), worker.returncode) for worker in workers]
    assert [(code, complaints(err)) for _, err, code in ended] == [(0, [])] * 2
    assert len(results(tmp_path)) == 4
    assert sum(out.count("\ntrainable ") for out, _, _ in ended) == 4
    assert [len(re.findall("^run ./4 .* test ", out, re.M)) for out, _, _ in ended] == [4] * 2


@pytest.mark.slow
def test_a_sweep_finishes_what_another_process_left_undone(tmp_path):
    arguments = (*FIVE, "trainer.save_seconds=0")
    alone = start(*arguments, "seed=0", cwd=tmp_path, program=("-c", HALTED))
    wait_for((tmp_path / "halted").exists, alone)
    sweep = start("-m", *arguments, "seed=0,1", cwd=tmp_path)
    wait_for(lambda: results(tmp_path), sweep)
    alone.kill()
    alone.communicate()
    out, err = sweep.communicate(timeout=240)
    assert (sweep.returncode, complaints(err)) == (0, [])
    assert "1 of the points were busy" in out
    assert "resumes   after epoch 2" in out
    assert len(results(tmp_path)) == 2
