"""Frozen weights that are rounded once compute the very numbers of autocast, which rounds them in every step."""

from contextlib import suppress

import pytest
import torch
from torch import nn

from peft_vision.backbone.frozen_weights import rounded_once
from peft_vision.core.distributed import World
from peft_vision.training.trainer import Trainer
from shipped import METHODS, adapted
from test_trainer import ALONE, PLAIN, random_images

BF16 = Trainer(**{**PLAIN, "precision": "bf16"})


def steps(model: nn.Module, *, once: bool, world: World = ALONE) -> tuple[list[torch.Tensor], set[str]]:
    """The losses of two steps and of scoring, and the names of what was rounded."""
    stepper = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    images = random_images(13, augment="flip_crop")
    trainer = BF16 if once else Trainer(**PLAIN)
    torch.manual_seed(0)
    with trainer.rounded_once(model, world.device):
        update = BF16.updates(model, stepper, world)
        losses = [update(batch, 0.1) for batch in BF16.batches(images, 0, 0, 0, world)]
        losses.append(torch.tensor(BF16.evaluate(model, images, "val", workers=0, world=world)["val/loss"]))
        rounded = {name for name, p in model.named_parameters() if p.dtype == torch.bfloat16}
    return losses, rounded


@pytest.mark.parametrize("method", METHODS)
def test_every_method_computes_the_same_bits(method):
    models = [adapted(method) for _ in range(2)]
    later = models[0].trained()  # by another phase
    frozen = {name: p.detach().clone() for name, p in models[0].named_parameters() if not p.requires_grad}
    frozen = {name: weight for name, weight in frozen.items() if name not in later}
    (once, rounded), (anew, none) = steps(models[0], once=True), steps(models[1], once=False)
    assert all(torch.equal(first, second) for first, second in zip(once, anew, strict=True))
    assert not none
    assert bool(rounded) == any(name.endswith("fc1.weight") or "fc1.inner.weight" in name for name in frozen)
    after = dict(models[0].named_parameters())
    assert all(
        torch.equal(after[name], weight) and after[name].dtype == weight.dtype for name, weight in frozen.items()
    )
    for name, tensor in models[1].tuned_state().items():
        assert torch.equal(models[0].tuned_state()[name], tensor), name


@pytest.mark.parametrize("options", [{"dora": True}, {"targets": ("q", "fc2"), "dropout": 0.3}], ids=str)
def test_what_measures_a_weight_keeps_it(options):
    models = [adapted("lora", **options) for _ in range(2)]
    (once, rounded), (anew, _) = steps(models[0], once=True), steps(models[1], once=False)
    assert all(torch.equal(first, second) for first, second in zip(once, anew, strict=True))
    assert any("inner" in name for name in rounded) is ("dora" not in options)


def test_linear_layers_and_the_patches_are_rounded_norms_and_positions_are_not():
    _, rounded = steps(adapted("vpt_deep"), once=True)
    layers = {name.rpartition(".")[0].rpartition(".")[2] for name in rounded}
    assert layers == {"qkv", "proj", "fc1", "fc2"}  # of the patches too: patch_embed.proj
    assert not any("norm" in name or ("embed." not in name and "blocks" not in name) for name in rounded)
    assert "encoder.vit.blocks.0.attn.qkv.bias" in rounded


def test_queries_add_the_bias_of_values_unrounded():
    _, rounded = steps(adapted("vqt"), once=True)
    assert "encoder.vit.blocks.0.attn.qkv.weight" in rounded
    assert not any(name.endswith("qkv.bias") for name in rounded)


class Reader(nn.Module):
    """A user's module, of another package."""


def test_beside_modules_of_a_user_nothing_is_rounded():
    model = adapted("vpt_deep")
    model.encoder.layers[0].behind.append(Reader())
    with rounded_once(model.encoder, torch.bfloat16, biases_of_qkv=True):
        assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_an_error_gives_the_weights_back():
    model = adapted("vpt_deep")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with suppress(KeyError), rounded_once(model.encoder, torch.bfloat16, biases_of_qkv=True):
        assert model.encoder.vit.blocks[0].mlp.fc1.weight.dtype == torch.bfloat16
        raise KeyError
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
