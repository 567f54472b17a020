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

TOKENS = "shallow prompts, beside and merged"
METHODS = {
    TOKENS: ("combined", 1, {"parts": {"convpass": {}, "lora": {}, "vpt_shallow": {}}}),
    "deep prompts and queries": ("vqt_vpt", 2, {}),
    "reads of every place": ("head2toe", 1, {}),
}
"""Methods, with the number of layers: two only where what is read of them is joined."""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A function that returns the model of a case, its state before it was written, and the file; each is made once."""

    @cache
    def write(case: str) -> tuple[Model, dict[str, torch.Tensor], Path]:
        method, depth, options = METHODS[case]
        model = randomised(method, architecture={"depth": depth}, **options)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        file = tmp_path_factory.mktemp("onnx") / "model.onnx"
        onnx_model.write(model, file)
        return model, before, file

    return write


@pytest.mark.parametrize("case", METHODS)
def test_onnxruntime_computes_the_same_logits_for_any_number_of_images(case, written):
    model, _, file = written(case)
    for count in (1, 5):
        images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
        torch.testing.assert_close(onnx_model.logits(file, images), model(images), rtol=1e-4, atol=1e-5)


def test_class_names_and_preprocessing_travel_along(written):
    model, _, file = written(TOKENS)
    held = {entry.key: json.loads(entry.value) for entry in onnx.load(file).metadata_props}
    assert held["classes"] == list(model.recipe.classes)
    assert held["preprocessing"] == model.recipe.preprocessing.record()


def test_writing_leaves_the_model_as_it_was(written):
    model, before, _ = written(TOKENS)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
