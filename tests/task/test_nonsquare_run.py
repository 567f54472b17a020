"""Runs on pictures of another height than width, from the command to every file that a run makes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from command import call, run_folder
from peft_vision.exchange import onnx_model
from peft_vision.runs.saved import open_saved

WIDE = ("experiment=smoke", "backbone.img_size=[24,40]", "data.augment=flip_crop", "data.resize=crop")


def done(*words: str, cwd) -> str:
    outcome = call(*words, cwd=cwd)
    assert (outcome.code, outcome.err) == (0, "")
    return outcome.out


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder in which a LoRA was trained on digits of 24 x 40 pixels."""
    folder = tmp_path_factory.mktemp("wide")
    done(*WIDE, "method=lora", cwd=folder)
    return folder


def test_it_is_trained_saved_and_found_again(trained):
    run = run_folder(trained / "runs")
    result = json.loads((run / "result.json").read_text())
    assert result["config"]["backbone"]["img_size"] == [24, 40]
    assert result["preprocessing"]["size"] == [24, 40]
    with safe_open(run / "adapter.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["preprocessing"])["size"] == [24, 40]
    assert "already" in done(*WIDE, "method=lora", cwd=trained)
    said = done("task=evaluate", f"run={run}", cwd=trained)
    assert f"{100 * result['metrics']['test/accuracy']:.2f}" in said


@pytest.mark.parametrize("kind", ["timm", "peft", "onnx"])
def test_it_is_exported_and_computes_the_same(kind, trained, tmp_path):
    if kind == "onnx" and onnx_model.missing():
        pytest.skip("onnx is not installed")
    run = run_folder(trained / "runs")
    said = done("task=export", f"run={run}", f"task.format={kind}", f"out={tmp_path}", cwd=trained)
    assert "checked   logits of 8 random images differ by" in said
    if kind == "timm":
        assert "img_size=(24, 40)" in said or "img_size=[24, 40]" in said
        (line,) = [line.removeprefix("loads by  ") for line in said.splitlines() if line.startswith("loads by  ")]
        names: dict = {}
        exec(line, names)
        saved = open_saved(str(run), checkpoint=None, device=torch.device("cpu"))
        images = torch.randint(0, 256, (2, *saved.recipe.preprocessing.shape), dtype=torch.uint8)
        with torch.no_grad():
            expected = saved.model(images)
            found = names["model"](saved.model.normalize(images))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_new_pictures_of_any_shape_are_labelled(trained, tmp_path):
    for index, shape in enumerate([(24, 40), (60, 31), (8, 8)]):
        noise = np.random.default_rng(index).integers(0, 256, (*shape, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{index}.png")
    said = done("task=predict", f"run={run_folder(trained / 'runs')}", f"images={tmp_path}", "out=labels", cwd=trained)
    assert "labelled  3 pictures" in said
    assert (trained / "labels/contact_sheet.png").is_file()


@pytest.mark.parametrize(
    "words",
    [("method=linear", "features.folder=shelf"), ("method=vpt_shallow", "method.location=pad", "method.num_prompts=4")],
)
def test_stored_features_and_a_border_are_of_that_shape(words, tmp_path):
    done(*WIDE, *words, "data.augment=none", cwd=tmp_path)
    (result,) = [json.loads(path.read_text()) for path in (tmp_path / "runs").rglob("result.json")]
    assert result["preprocessing"]["size"] == [24, 40]


def test_faulty_sizes_are_one_line_each(tmp_path):
    said = call("experiment=smoke", "method=linear", "backbone.img_size=[24,44]", cwd=tmp_path).error
    assert said == (
        "backbone.img_size: [24, 44] is no multiple of the 8 px patches of vit_tiny_patch16_224; "
        "[24, 40] and [24, 48] are"
    )
    said = call("experiment=smoke", "method=linear", "backbone.img_size=[24]", cwd=tmp_path).error
    assert said == "backbone.img_size: got [24], should be the side of a square in pixels, or [height, width]"
