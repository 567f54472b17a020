"""The demo, from a folder that is not the repository, and what it leaves behind."""

import json

import pytest
import torch
from safetensors import safe_open

import peft_vision
from command import call, results, run_folder
from peft_vision.backbone.load import Backbone
from peft_vision.core.config import CONFIG_DIR, build
from peft_vision.data.base import Data

CHANCE = 0.1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A demo of two epochs."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    outcome = call("experiment=demo", "trainer.epochs=2", cwd=elsewhere)
    assert outcome.code == 0, outcome
    assert "vpt_deep on digits, vit_micro, seed 0" in outcome.out
    assert len(results(elsewhere)) == 1
    return run_folder(elsewhere / "runs")


def test_the_demo_learns(folder):
    assert json.loads((folder / "result.json").read_text())["metrics"]["test/accuracy"] > 5 * CHANCE


def test_its_adapter_loads_with_the_accuracy_it_reported(folder):
    result = json.loads((folder / "result.json").read_text())
    backbone = build(result["config"]["backbone"], Backbone, "backbone")
    model = peft_vision.load(folder / "adapter.safetensors", backbone.load())
    test = build(result["config"]["data"], Data, "data").load(backbone.preprocessing()).test
    pixels, labels = next(test.batches([torch.arange(len(test))], seed=None, workers=0))
    with torch.no_grad():
        accuracy = (model(pixels).argmax(1) == labels).double().mean().item()
    assert accuracy == pytest.approx(result["metrics"]["test/accuracy"])


def test_the_shipped_weights_are_small_and_say_where_they_come_from():
    path = CONFIG_DIR.parent / "src/peft_vision/backbone/vit_micro.safetensors"
    assert path.stat().st_size < 3e6
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["trained_by"])["name"].startswith("full-vit_micro-image_folder")
    assert json.loads(metadata["preprocessing"])["size"] == 32
