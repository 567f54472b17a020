"""Every way in which a method works, as an ONNX file, checked with onnxruntime."""

import json
from functools import cache
from pathlib import Path

import onnx
import pytest
import torch

from peft_vision.exchange import onnx_model
from peft_vision.models.model import Model
from reference import randomised

BESIDE, PROMPTS, READS = ["convpass"], ["vpt_shallow", "vpt_lora"], ["vqt_vpt", "head2toe"]
"""`vpt_lora` merges too."""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A function that returns a method's model, its state before it was written, and the file; each is written once."""

    @cache
    def write(method: str) -> tuple[Model, dict[str, torch.Tensor], Path]:
        model = randomised(method, architecture={"depth": 2})
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        file = tmp_path_factory.mktemp("onnx") / "model.onnx"
        onnx_model.write(model, file)
        return model, before, file

    return write


@pytest.mark.parametrize("method", [*BESIDE, *PROMPTS, *READS])
def test_onnxruntime_computes_the_same_logits_for_any_number_of_images(method, written):
    model, _, file = written(method)
    for count in (1, 5):
        images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
        torch.testing.assert_close(onnx_model.logits(file, images), model(images), rtol=1e-4, atol=1e-5)


def test_class_names_and_preprocessing_travel_along(written):
    model, _, file = written("vpt_lora")
    held = {entry.key: json.loads(entry.value) for entry in onnx.load(file).metadata_props}
    assert held["classes"] == list(model.recipe.classes)
    assert held["preprocessing"] == model.recipe.preprocessing.record()


def test_writing_leaves_the_model_as_it_was(written):
    model, before, _ = written("vpt_lora")
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
