"""A run on grey pictures with a backbone of one channel, from the command to labels of new pictures."""

import json

import numpy as np
import pytest
from PIL import Image

from command import call, run_folder

RUN = ("experiment=smoke", "method=lora", "backbone.in_chans=1", "data=image_folder", "data.path=grey")


@pytest.fixture
def grey(tmp_path):
    """Two classes, dark and bright, in grey."""
    for name, level in (("dark", 40), ("bright", 200)):
        for index in range(12):
            folder = tmp_path / "grey" / ("train" if index < 8 else "test") / name
            folder.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(index).integers(-20, 20, (32, 32))
            Image.fromarray((level + noise).astype(np.uint8)).save(folder / f"{index}.png")
    return tmp_path


def test_grey_pictures_train_a_backbone_of_one_channel_and_are_labelled_by_it(grey):
    outcome = call(*RUN, "data.train_size=null", cwd=grey)
    assert (outcome.code, outcome.err) == (0, "")
    result = json.loads((run_folder(grey / "runs") / "result.json").read_text())
    assert result["config"]["backbone"]["in_chans"] == 1
    labelled = call("task=predict", f"run={run_folder(grey / 'runs')}", "images=grey/test", cwd=grey)
    assert (labelled.code, labelled.err) == (0, "")
    exported = call("task=export", f"run={run_folder(grey / 'runs')}", "task.format=timm", cwd=grey)
    assert "in_chans=1" in exported.out


def test_a_coloured_picture_and_a_wrong_number_of_channels_are_one_line_each(grey):
    said = call(*RUN, "data.train_size=null", "backbone.in_chans=4", cwd=grey).error
    assert said.startswith("backbone.in_chans: the backbone takes 4 channels")
    Image.new("RGB", (32, 32), "red").save(grey / "grey/train/dark/0.png")
    said = call(*RUN, "data.train_size=null", cwd=grey).error
    assert said.startswith("data: ")
    assert "grey/train/dark/0.png has colours, and the backbone takes one channel" in said
