"""A few of the cases that `benchmarks/faults.py` tries by the thousand."""

import importlib
import os
import sys
from pathlib import Path

import pytest

from peft_vision.runs.run import Run

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def faults(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module("faults")
    for name in ("faults", "faults_scenes"):
        sys.modules.pop(name)


@pytest.mark.parametrize("name", ["train", "resume"])
def test_nothing_is_lost_wrong_or_stuck(name, faults, tmp_path, capsys):
    scenes = [scene for scene in faults.SCENES if scene.name == name]
    tally = faults.campaign(scenes, sample=3, seed=0, flips=1, scratch=tmp_path)
    assert sum(count for (_, what), count in tally.items() if what == "cases") == 3
    assert sum(count for (_, what), count in tally.items() if what == "failures") == 0, capsys.readouterr().out


def test_what_ends_otherwise_is_told(faults, tmp_path, monkeypatch, capsys):
    write = Run.write_result
    monkeypatch.setattr(
        Run, "write_result", lambda run, result: write(run, result.model_copy(update={"features": os.getpid()}))
    )
    scenes = [scene for scene in faults.SCENES if scene.name == "train"]
    tally = faults.campaign(scenes, sample=1, seed=0, flips=1, scratch=tmp_path)
    assert sum(count for (_, what), count in tally.items() if what == "failures") == 1
    assert "wrong: runs/linear-" in capsys.readouterr().out
