"""The attention primitive equals timm's own forward over the variants of a plain ViT."""

import copy

import pytest
import torch
from torch import nn

from conftest import tiny_vit
from peft_vision.backbone.attention import project, update
from peft_vision.backbone.encoder import Encoder

VARIANTS = {
    "class token": {},
    "average pooling": {"global_pool": "avg"},
    "average pooling, norm before it": {"global_pool": "avg", "fc_norm": False},
    "maximum pooling": {"global_pool": "max"},
    "attention pooling": {"global_pool": "map"},
    "no class token": {"class_token": False, "global_pool": "avg"},
    "register tokens": {"reg_tokens": 2},
    "register tokens without position": {"reg_tokens": 2, "no_embed_class": True},
    "norm before the blocks": {"pre_norm": True},
    "query and key norms": {"qk_norm": True},
    "attention and MLP norms": {"scale_attn_norm": True, "scale_mlp_norm": True},
    "layer scale": {"init_values": 0.1},
    "no biases": {"qkv_bias": False, "proj_bias": False},
}


@pytest.mark.parametrize("architecture", VARIANTS.values(), ids=VARIANTS.keys())
def test_encoder_gives_timms_features_and_gradients(architecture, images):
    vit = tiny_vit(**architecture)
    encoder = Encoder(copy.deepcopy(vit))
    expected, features = vit(images), encoder(images)
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)
    expected.square().sum().backward()
    features.square().sum().backward()
    timms = dict(vit.named_parameters())
    for name, parameter in encoder.vit.named_parameters():
        if timms[name].grad is not None:
            torch.testing.assert_close(parameter.grad, timms[name].grad, rtol=1e-4, atol=1e-4, msg=name)


def test_gated_attention_is_honoured(images):
    vit = tiny_vit()
    for block in vit.blocks:
        block.attn.gate = nn.Linear(32, 32)
    torch.testing.assert_close(Encoder(copy.deepcopy(vit))(images), vit(images))


def test_parameter_names_stay_timms(vit):
    names = list(vit.state_dict())
    assert list(Encoder(vit).vit.state_dict()) == names


def test_drop_path_and_dropout_are_active_in_training_only(images):
    vit = tiny_vit(drop_path_rate=0.5, proj_drop_rate=0.2, attn_drop_rate=0.2)
    encoder = Encoder(vit)
    assert not torch.equal(encoder.train()(images), encoder(images))
    assert torch.equal(encoder.eval()(images), encoder(images))


def test_last_layer_computes_the_class_token_only(vit, images):
    encoder = Encoder(vit)
    rows = []
    encoder.layers[-1].mlp.register_forward_hook(lambda module, args, output: rows.append(output.shape[1]))
    encoder(images)
    assert rows == [1]


def updated(layer, queries: torch.Tensor, *contexts: torch.Tensor) -> torch.Tensor:
    """`update` from contexts that are not normed yet."""
    return update(layer, queries, layer.norm1(queries), *map(layer.norm1, contexts))


def test_a_shared_context_equals_one_repeated_for_each_image(vit):
    layer = Encoder(vit).layers[0]
    tokens, context = torch.randn(4, 6, 32), torch.randn(1, 3, 32)
    shared = updated(layer, tokens, tokens, context)
    torch.testing.assert_close(shared, updated(layer, tokens, tokens, context.expand(4, -1, -1)))


def test_context_rows_are_seen_but_not_updated(vit):
    layer = Encoder(vit).layers[0]
    tokens, context = torch.randn(4, 6, 32), torch.randn(4, 3, 32)
    both = torch.cat([tokens, context], dim=1)
    torch.testing.assert_close(updated(layer, tokens, tokens, context), updated(layer, both, both)[:, :6])


class Doubled(nn.Module):
    """Stands for a LoRA: what it computes is not in `weight`."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, tokens):
        return 2 * self.linear(tokens)


@pytest.mark.parametrize(("first", "last"), [(0, 1), (1, 3), (0, 3)])
def test_projecting_a_part_equals_slicing_the_whole(first, last):
    qkv, tokens = nn.Linear(8, 24), torch.randn(2, 5, 8)
    torch.testing.assert_close(project(qkv, tokens, first=first, last=last), qkv(tokens)[..., 8 * first : 8 * last])


def test_a_wrapper_on_qkv_is_not_bypassed(vit):
    layer = Encoder(vit).layers[0]
    tokens, context = torch.randn(4, 6, 32), torch.randn(1, 3, 32)
    wrapped = copy.deepcopy(layer)
    wrapped.attn.qkv = Doubled(wrapped.attn.qkv)
    layer.attn.qkv.weight.data *= 2
    layer.attn.qkv.bias.data *= 2
    torch.testing.assert_close(
        updated(wrapped, tokens[:, :1], tokens, context), updated(layer, tokens[:, :1], tokens, context)
    )
