"""Runs on pictures of one channel and of six, from the command to labels of new pictures."""

import json
import re

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

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


def test_bands_train_a_backbone_of_as_many_channels_and_are_labelled_by_it(tmp_path):
    for name, band in (("low", 1), ("high", 5)):
        for index in range(12):
            folder = tmp_path / "bands" / ("train" if index < 8 else "test") / name
            folder.mkdir(parents=True, exist_ok=True)
            values = np.random.default_rng(index).integers(0, 2000, (6, 32, 32), dtype=np.uint16)
            values[band] += 8000
            np.save(folder / f"{index}.npy", values)
    words = (*RUN[:2], "backbone.in_chans=6", "data=image_folder", "data.path=bands", "data.full_scale=10000")
    outcome = call(*words, "data.train_size=null", cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    run = run_folder(tmp_path / "runs")
    result = json.loads((run / "result.json").read_text())
    assert result["data"]["provenance"]["encoding"] == "NumPy"
    evaluated = call("task=evaluate", f"run={run}", cwd=tmp_path)
    assert (evaluated.code, evaluated.err) == (0, "")
    labelled = call("task=predict", f"run={run}", "images=bands/test", cwd=tmp_path)
    assert (labelled.code, labelled.err) == (0, "")
    assert (run / "predictions/test/contact_sheet.png").is_file()
    np.save(tmp_path / "bands/test/low/9.npy", np.zeros((5, 32, 32), np.uint8))
    said = call("task=predict", f"run={run}", "images=bands/test", cwd=tmp_path).error
    assert said.endswith("test/low/9.npy has 5 channels, and the backbone takes 6 (backbone.in_chans)")


def test_a_coloured_picture_and_a_wrong_number_of_channels_are_one_line_each(grey):
    said = call(*RUN, "data.train_size=null", "backbone.in_chans=4", cwd=grey).error
    assert re.fullmatch(r"data: \S+\.png has 1 channel, and the backbone takes 4 \(backbone.in_chans\)", said)
    Image.new("RGB", (32, 32), "red").save(grey / "grey/train/dark/0.png")
    said = call(*RUN, "data.train_size=null", cwd=grey).error
    assert said.startswith("data: ")
    assert "grey/train/dark/0.png has colours, and the backbone takes one channel" in said


def test_run_on_a_folder_of_weights_is_opened_again_where_the_folder_lies_then(tmp_path):
    (tmp_path / "own").mkdir()
    sizes = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    record = {"input_size": [3, 32, 32], "fixed_input_size": True, "mean": [0.5] * 3, "std": [0.5] * 3}
    held = {"architecture": "vit_tiny_patch16_224", "model_args": sizes, "pretrained_cfg": record}
    (tmp_path / "own/config.json").write_text(json.dumps(held))
    vit = timm.create_model("vit_tiny_patch16_224", **sizes, img_size=32)
    save_file(vit.state_dict(), tmp_path / "own/model.safetensors")
    words = (
        "experiment=smoke",
        "method=linear",
        "backbone=timm",
        "backbone.name=local-dir:own",
        "backbone.pretrained=true",
    )
    words += ("backbone.architecture.depth=2",)
    assert call(*words, cwd=tmp_path).code == 0
    assert "already" in call(*words, cwd=tmp_path).out
    (tmp_path / "own").rename(tmp_path / "elsewhere")
    evaluated = call("task=evaluate", f"run={run_folder(tmp_path / 'runs')}", "checkpoint=elsewhere", cwd=tmp_path)
    assert (evaluated.code, evaluated.err) == (0, "")
