"""Attention weights are those that the forward pass computes with, and timm's own on an untouched backbone."""

import copy

import pytest
import torch
from variants import TOKENS, small

import peft_vision
from conftest import tiny_vit
from peft_vision.backbone.attention_weights import noted_weights, num_pooled, on_patches, rollout
from peft_vision.backbone.encoder import Encoder
from peft_vision.core.config import ConfigError

FEW = ("ViT", "DINOv3", "EVA-02", "grouped keys and values", "mixed rotations", "relative, class token")
FEW += ("BEiT, class token, SwiGLU, no biases", "post-norm, rotary, apart", "query and key norms")


@pytest.mark.parametrize("variant", FEW)
def test_weights_are_timms_and_change_no_feature(variant, images):
    model = small(variant).eval()
    encoder, timms = Encoder(copy.deepcopy(model)).eval(), []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_pre_hook(lambda module, args: timms.append(args[0].detach()))
    with torch.no_grad():
        model(images)
        expected = encoder(images)
        with noted_weights(encoder, range(len(encoder.layers))) as noted:
            features = encoder(images)
    assert torch.equal(features, expected)
    assert len(noted) == len(timms) == len(encoder.layers)
    for found, theirs in zip(noted, timms, strict=True):
        torch.testing.assert_close(found, theirs[:, :, : found.shape[2]], rtol=0, atol=1e-5)
        torch.testing.assert_close(found.sum(dim=-1), torch.ones(found.shape[:3]))
    assert all(layer.weights_observer is None for layer in encoder.layers)


@pytest.mark.parametrize("method", ["vpt_shallow", "vpt_deep", "lora"])
def test_a_rollout_sums_to_one_over_what_enters_the_first_layer(method, images):
    model = peft_vision.adapt(tiny_vit(), method=method, num_classes=4).eval()
    with torch.no_grad(), noted_weights(model.encoder, range(3)) as noted:
        model(images)
    rolled = rollout(noted, 17)
    added = {"vpt_shallow": (0, 10), "vpt_deep": (10, 0), "lora": (0, 0)}[method]  # as context alone, and as tokens
    assert noted[1].shape[2:] == (17 + added[1], 17 + sum(added))
    assert rolled.shape == (5, 1, 17)
    torch.testing.assert_close(rolled.sum(dim=-1), torch.ones(5, 1))
    assert on_patches(rolled, model.encoder).shape == (5, 1, 4, 4)


@pytest.mark.parametrize("prompts", [0, 3])
def test_a_rollout_is_the_papers_product_over_the_tokens_of_the_image(prompts):
    weights = [torch.rand(2, 3, rows, 6 + prompts).softmax(dim=-1) for rows in (6, 6, 1)]
    inside = [of_layer.mean(dim=1)[:, :, :6] for of_layer in weights]
    halves = [(part / part.sum(dim=-1, keepdim=True) + torch.eye(6)[: part.shape[1]]) / 2 for part in inside]
    torch.testing.assert_close(rollout(weights, 6), halves[2] @ halves[1] @ halves[0])


def test_patches_are_in_their_places(images):
    encoder = Encoder(tiny_vit(reg_tokens=2))
    weights = torch.arange(19.0).expand(2, 19)
    assert torch.equal(on_patches(weights, encoder)[1], torch.arange(3.0, 19.0).view(4, 4))


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        ("Swin", r"^task.map: it needs one context a layer, which a query can attend to; swin"),
        ("DINOv3 with biases", r"^task.map: vit_small_patch16_dinov3_qkvb pools all its tokens here, and none of them"),
    ],
)
def test_a_backbone_without_attention_for_the_class_says_so(variant, said):
    assert variant == "Swin" or variant in TOKENS
    with pytest.raises(ConfigError, match=said):
        num_pooled(Encoder(small(variant)))
