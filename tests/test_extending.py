"""Every example of docs/extending.md does what the page says."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import peft_vision
from command import call, results
from peft_vision.core.config import CONFIG_DIR
from peft_vision.core.identity import _digest
from peft_vision.testing import check_data, check_head

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
FILES = {
    match[1]: text for _, text in BLOCKS if (match := re.search(r"^# (\w+/[\w/]+\.(?:py|yaml))$", text, re.MULTILINE))
}
COMMANDS = [line for language, text in BLOCKS if language == "bash" for line in text.splitlines()]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with all files of the page, on Python's path."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    shipped = Path(peft_vision.__file__).parent / "backbone" / "vit_micro.safetensors"
    (tmp_path / "weights.safetensors").symlink_to(shipped)
    for camera in ("day", "night"):
        (tmp_path / "cameras" / camera).mkdir(parents=True)
        for digit in range(3):
            pixels = np.full((8, 8, 3), 80 * digit, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "cameras" / camera / f"{digit}_0.png")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "mypackage"]:
        del sys.modules[name]
    _digest.cache_clear()


def test_the_page_has_what_it_speaks_of():
    assert len(COMMANDS) == 8
    assert {name.split("/")[1] for name in FILES if name.startswith("myconf")} == {
        "method", "head", "data", "optimizer", "schedule", "backbone", "ood",
    }  # fmt: skip


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_page_runs(line, project):
    words = shlex.split(line)
    assert words[:2] == ["PYTHONPATH=.", "peft-vision"]
    outcome = call(*words[2:], cwd=project)
    assert outcome.code == 0, outcome
    assert len(results(project)) == 1


def test_the_checks_of_the_page_pass(project):
    from mypackage import test_scales
    from mypackage.cosine import Cosine
    from mypackage.stripes import Stripes

    test_scales.test_mine()
    check_head(Cosine)
    check_data(Stripes, count=20)


def test_no_file_of_the_page_has_a_shipped_name():
    shipped = [name for name in FILES if name.startswith("myconf") and (CONFIG_DIR / name[len("myconf/") :]).exists()]
    assert shipped == []
