"""The tests' own damages: each does what it says, and `refused` takes nothing but a line for an answer."""

import json
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

import damage
from damage import DAMAGES, refused
from peft_vision.core.config import ConfigError


def written(folder: Path) -> list[Path]:
    """A whole file of each format that a damage knows."""
    np.save(folder / "a.npy", np.arange(60, dtype=np.uint8).reshape(20, 3))
    np.savez(folder / "a.npz", imgs=np.arange(60, dtype=np.uint8))
    savemat(folder / "a.mat", {"labels": np.arange(9)})
    (folder / "a.json").write_text(json.dumps({"a": 1, "b": 2}))
    (folder / "a.txt").write_text("a/1.jpg 0\nb/2.jpg 1\n")
    (folder / "batch").write_bytes(pickle.dumps({"data": list(range(99))}))
    for ending in ("png", "jpg"):
        Image.effect_noise((20, 24), 60).save(folder / f"a.{ending}")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_leaves_no_file_as_it_was(name: str, tmp_path: Path):
    for path in written(tmp_path):
        before = path.read_bytes()
        DAMAGES[name](path)
        assert not path.is_file() or path.read_bytes() != before, path


def test_only_a_line_that_names_the_file_is_an_answer(tmp_path: Path):
    path = tmp_path / "a.npy"

    def say(text: str):
        raise ConfigError(text)

    assert refused(lambda: say(f"cannot read {path}"), path) == f"cannot read {path}"
    assert refused(lambda: 3, path, unless=3) == ""
    for wrong in (lambda: say("cannot read it"), lambda: say(f"{path}\nis\nbroken"), lambda: 3):
        with pytest.raises(AssertionError):
            refused(wrong, path)
    with pytest.raises(AssertionError):
        refused(lambda: 3, path, unless=4)
    with pytest.raises(OSError, match="a traceback"):
        refused(lambda: (_ for _ in ()).throw(OSError("a traceback")), path)


def test_a_reader_that_unpickles_is_caught(tmp_path: Path):
    path = tmp_path / "batch"
    DAMAGES["pickled"](path)
    with pytest.raises(AssertionError, match="unpickled"):
        refused(lambda: pickle.loads(path.read_bytes()), path, unless=None)


def test_a_reader_that_waits_is_caught(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(damage, "SECONDS", 0.05)
    path = tmp_path / "a.png"
    path.touch()
    DAMAGES["fifo"](path)
    began = time.monotonic()
    with pytest.raises(pytest.fail.Exception, match="still being read"):
        refused(path.read_bytes, path)
    assert time.monotonic() - began < 5
