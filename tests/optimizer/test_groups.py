"""What is decayed, and that the shipped optimizers are torch's."""

import pytest
import torch

from peft_vision.optimizer.base import SGD, Adam, AdamW, parameter_groups
from shipped import adapted


def decayed_names(model, **options):
    groups = parameter_groups(model, 0.1, **options)
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in decayed}


def test_prompts_and_the_heads_matrix_are_decayed_its_bias_is_not():
    model = adapted("vpt_deep")
    prompts = {f"encoder.vit.blocks.{index}.context.prompts" for index in range(3)}
    assert decayed_names(model) == {*prompts, "head.0.weight"}


def test_full_fine_tuning_decays_matrices_only():
    model = adapted("full", architecture={"init_values": 0.1, "reg_tokens": 1})
    for name in decayed_names(model):
        assert name.endswith("weight")
        assert "norm" not in name
    exempt = {"cls_token", "reg_token", "pos_embed", "norm1.weight", "ls1.gamma", "qkv.bias"}
    spared = {name for name, _ in model.named_parameters()} - decayed_names(model)
    assert all(any(name.endswith(ending) for name in spared) for ending in exempt)


def test_weights_are_all_but_the_biases_as_in_the_code_of_vpt():
    """KMnP/vpt, src/solver/optimizer.py: no decay for names with "bias"; its norms are not called LayerNorm."""
    model = adapted("full", architecture={"init_values": 0.1, "reg_tokens": 1})
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    decayed = decayed_names(model, decays="weights")
    assert trained - decayed == {name for name in trained if name.endswith("bias")}
    endings = ("cls_token", "reg_token", "pos_embed", "norm1.weight", "ls1.gamma", "qkv.weight")
    assert all(any(name.endswith(ending) for name in decayed) for ending in endings)
    assert decayed_names(model, decays="all") == trained


@pytest.mark.parametrize("decays", ["matrices", "weights", "all"])
@pytest.mark.parametrize("method", ["linear", "full", "vpt_deep"])
def test_exactly_what_trains_is_optimised_once(method, decays):
    model = adapted(method)
    optimised = [id(p) for group in parameter_groups(model, 0.1, decays) for p in group["params"]]
    assert len(optimised) == len(set(optimised))
    assert set(optimised) == {id(p) for p in model.parameters() if p.requires_grad}


def test_the_settings_reach_torch():
    model = adapted("linear")
    sgd = SGD(lr=0.3, weight_decay=0.02, momentum=0.8).create(model, seed=0)
    assert isinstance(sgd, torch.optim.SGD)
    settings = [(group["lr"], group["momentum"], group["weight_decay"]) for group in sgd.param_groups]
    assert settings == [(0.3, 0.8, 0.02), (0.3, 0.8, 0.0)]
    adamw = AdamW(lr=0.3, weight_decay=0.02, betas=(0.5, 0.6), eps=1e-6, decays="all").create(model, seed=0)
    assert isinstance(adamw, torch.optim.AdamW)
    assert [(group["betas"], group["eps"], group["weight_decay"]) for group in adamw.param_groups] == [
        ((0.5, 0.6), 1e-6, 0.02)
    ]
    adam = Adam(lr=0.3, weight_decay=0.02, betas=(0.5, 0.6)).create(model, seed=0)
    assert type(adam) is torch.optim.Adam
    assert [(group["weight_decay"], group["betas"]) for group in adam.param_groups] == [
        (0.02, (0.5, 0.6)),
        (0.0, (0.5, 0.6)),
    ]
