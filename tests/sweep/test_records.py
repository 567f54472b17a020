"""Files of a run that are torn, edited or of another version: named, kept, and the other points run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from command import SMOKE, call, results
from peft_vision.core.config import ConfigError
from peft_vision.runs.run import Run
from peft_vision.task import session
from peft_vision.training.phases import fit_phases

SWEEP = ("-m", *SMOKE, "optimizer=sgd")


@pytest.fixture(scope="module")
def begun_once(nobodys_store, tmp_path_factory) -> Path:
    """Where the first of two runs stopped after its first epoch, and the second was done. Nothing may change it: tests
    take a copy."""
    folder = tmp_path_factory.mktemp("begun")

    class Stop(Exception):
        pass

    def stopping(model, sources, training, **options):
        def save_and_stop(state):
            training.save(state)
            raise Stop

        fit_phases(model, sources, replace(training, save=save_and_stop), **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "fit_phases", stopping)
        with pytest.raises(Stop):
            call(*SMOKE, "optimizer=sgd", "trainer.save_seconds=0", cwd=folder)
    next(folder.rglob("failed.json")).unlink()
    assert call(*SMOKE, "optimizer=sgd", "seed=1", cwd=folder).code == 0
    return folder


@pytest.fixture
def begun(begun_once, tmp_path) -> Path:
    return shutil.copytree(begun_once, tmp_path, dirs_exist_ok=True)


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def renamed(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    torch.save({"model" if key == "tuned" else key: value for key, value in state.items()}, path)


def of_another_standing(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    torch.save({**state, "standing": {**state["standing"], "momentum": 1}}, path)


@pytest.mark.parametrize("spoil", [torn, emptied])
def test_a_damaged_state_is_named_and_set_aside_and_its_run_begins_anew(spoil, begun):
    (state,) = begun.rglob("state.pt")
    spoil(state)
    spoiled = state.read_bytes()
    outcome = call(*SWEEP, "seed=0,1,2", cwd=begun)
    assert outcome.code == 0, outcome
    assert f"{state.relative_to(begun)} is damaged: " in outcome.out
    assert "it is kept as state.pt.damaged, and the run begins anew" in outcome.out
    assert "resumes" not in outcome.out
    assert state.with_name("state.pt.damaged").read_bytes() == spoiled
    assert len(results(begun)) == 3


@pytest.mark.parametrize("spoil", [renamed, of_another_standing])
def test_a_state_of_another_version_is_named_and_kept_and_the_other_points_run(spoil, begun):
    (state,) = begun.rglob("state.pt")
    spoil(state)
    spoiled = state.read_bytes()
    outcome = call(*SWEEP, "seed=0,1,2", cwd=begun)
    assert outcome.code == 1
    assert "1 of the sweep's 3 points failed" in outcome.err
    assert f"{state.relative_to(begun)}" in outcome.err
    assert "delete it to begin the run anew" in outcome.err
    assert "Traceback" not in outcome.err
    assert state.read_bytes() == spoiled
    assert len(results(begun)) == 2
    state.unlink()
    assert call(*SWEEP, "seed=0,1,2", "task.retry=true", cwd=begun).code == 0


def test_a_state_that_is_whole_is_gone_on_from(begun):
    outcome = call(*SWEEP, "seed=0,1,2", cwd=begun)
    assert outcome.code == 0, outcome
    assert "resumes   after epoch 1" in outcome.out


@pytest.mark.parametrize("key", ["metrics", "config", "store"])
def test_a_result_of_another_version_is_named_and_not_taken_for_this_ones(key, begun):
    (path,) = results(begun)
    result = json.loads(path.read_text())
    del result[key]
    path.write_text(json.dumps(result))
    with pytest.raises(ConfigError, match=f"{key}: Field required\nit is of another version, or edited"):
        Run(path.parent).read_result()
    outcome = call(*SWEEP, "seed=0,1,2", cwd=begun)
    assert f"  seed=1: cannot read {path}: {key}: Field required\nit is of another version, or edited" in outcome.err
    assert len(results(begun)) == 3
    assert json.loads(path.read_text()) == result
