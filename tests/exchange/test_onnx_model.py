"""Every way in which a method works, as an ONNX file, checked with onnxruntime."""

import json

import onnx
import pytest
import torch

from peft_vision.exchange import onnx_model
from reference import randomised
from shipped import adapted

MERGED, BESIDE, PROMPTS, READS = (
    ["lora"],
    ["convpass", "adapter_plus"],
    ["vpt_shallow", "vpt_lora"],
    ["vqt_vpt", "head2toe"],
)


@pytest.mark.parametrize("method", [*MERGED, *BESIDE, *PROMPTS, *READS])
def test_onnxruntime_computes_the_same_logits_for_any_number_of_images(method, tmp_path):
    model = randomised(method)
    onnx_model.write(model, tmp_path / "model.onnx")
    for count in (1, 5):
        images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
        torch.testing.assert_close(
            onnx_model.logits(tmp_path / "model.onnx", images), model(images), rtol=1e-4, atol=1e-5
        )


def test_class_names_and_preprocessing_travel_along(tmp_path):
    model = adapted("lora").eval()
    onnx_model.write(model, tmp_path / "model.onnx")
    held = {entry.key: json.loads(entry.value) for entry in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert held["classes"] == list(model.recipe.classes)
    assert held["preprocessing"] == model.recipe.preprocessing.record()


def test_writing_leaves_the_model_as_it_was(tmp_path):
    model = randomised("lora")
    before = model.state_dict()
    onnx_model.write(model, tmp_path / "model.onnx")
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
