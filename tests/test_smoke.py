"""`make smoke`: every method, as a user would run it."""

import json

import pytest

from command import call, results
from peft_vision.core.config import CONFIG_DIR

EVERY_METHOD = ("-m", "experiment=smoke", "method=glob(*)")


@pytest.mark.slow
def test_one_command_runs_every_method_and_again_finds_them_done(tmp_path):
    methods = sorted(path.stem for path in CONFIG_DIR.glob("method/*.yaml"))
    outcome = call(*EVERY_METHOD, cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    found = results(tmp_path)
    choices = {path: json.loads(path.read_text())["choices"] for path in found}
    assert sorted(chosen["method"] for chosen in choices.values()) == methods
    for path, chosen in choices.items():
        assert path.parent.name.startswith(f"{chosen['method']}-vit_micro-digits-s0-")

    written = [path.stat().st_mtime_ns for path in found]
    again = call(*EVERY_METHOD, cwd=tmp_path)
    assert again.code == 0
    assert again.out.count("  before  method=") == len(methods)
    assert [path.stat().st_mtime_ns for path in results(tmp_path)] == written
