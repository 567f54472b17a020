"""An adapter belongs on what computes the same, not only on equal weights."""

import json
import math
from functools import partial

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import peft_vision
from conftest import tiny_vit
from peft_vision.models.likeness import likeness, pictures, unlike
from shipped import adapted

OTHERS = {
    "pool": {"global_pool": "max"},
    "heads": {"num_heads": 4},
    "activation": {"act_layer": "quick_gelu"},
    "eps": {"norm_layer": partial(nn.LayerNorm, eps=1e-5)},
}


@pytest.mark.parametrize("method", ["linear", "full"])
@pytest.mark.parametrize("architecture", OTHERS.values(), ids=OTHERS.keys())
def test_equal_weights_that_compute_something_else_are_refused(method, architecture, tmp_path):
    pool = {"global_pool": "avg", "fc_norm": False} if "global_pool" in architecture else {}
    peft_vision.save(adapted(method, architecture=pool), tmp_path / "a.safetensors")
    peft_vision.load(tmp_path / "a.safetensors", tiny_vit(**pool))
    with pytest.raises(ValueError, match="computes something else than this one, though its weights are equal"):
        peft_vision.load(tmp_path / "a.safetensors", tiny_vit(**{**pool, **architecture}))


def test_an_adapter_from_before_there_was_a_likeness_is_known_by_its_weights(images, tmp_path):
    path = tmp_path / "a.safetensors"
    peft_vision.save(adapted("linear"), path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    del metadata["likeness"]
    save_file(load_file(path), path, metadata=metadata)
    assert torch.equal(peft_vision.load(path, tiny_vit())(images), adapted("linear").eval()(images))
    peft_vision.load(path, tiny_vit(num_heads=4))


def test_to_look_at_a_model_changes_nothing(images):
    model = adapted("lora", dropout=0.5)
    modes = [module.training for module in model.modules()]
    torch.manual_seed(0)
    state, precision = torch.get_rng_state(), torch.get_float32_matmul_precision()
    first = likeness(model)
    assert likeness(model) == first
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_float32_matmul_precision() == precision


def test_rounding_and_autocast_of_the_caller_do_not_matter():
    model = adapted("linear")
    plain = likeness(model)
    model.round_observations_to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert likeness(model) == plain
    assert model.observed_type == torch.bfloat16


def test_small_differences_are_no_other_model():
    model = adapted("linear")
    saved = likeness(model)

    def moved(by: float):
        return saved.model_copy(update={"logits": [[value * (1 + by) for value in row] for row in saved.logits]})

    assert unlike(model, moved(5e-4)) is None
    assert unlike(model, moved(2e-3)).startswith("of a fixed picture its logits differ by 0.2 %")
    assert unlike(model, saved.model_copy(update={"features": saved.features[:1]})) is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_in_another_precision_has_none(dtype):
    assert likeness(adapted("linear").to(dtype)) is None


def test_a_model_that_computes_no_numbers_has_none():
    model = adapted("linear")
    model.head[0].bias.data.fill_(math.nan)
    assert likeness(model) is None


def test_it_is_small_and_made_of_fixed_pictures(tmp_path):
    peft_vision.save(peft_vision.adapt(tiny_vit(), method="linear", num_classes=500), tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        kept = json.loads(file.metadata()["likeness"])
    assert [len(row) for row in (*kept["features"], *kept["logits"])] == [32, 32, 64, 64]
    assert pictures(32).shape == (2, 3, 32, 32)
    assert pictures(32)[0, 0, 0, :3].tolist() == pytest.approx([0, 1.5 * math.sin(0.7), 1.5 * math.sin(2.8)])
