"""Head2Toe reads every layer, and chooses."""

import pytest
import timm
import torch

import peft_vision
from conftest import tiny_vit
from peft_vision.backbone.families.match import trunk_of
from peft_vision.backbone.intermediates import group_widths
from peft_vision.backbone.outline import shapes_alone
from shipped import adapted


def averages(vit, images) -> list[torch.Tensor]:
    """The groups, computed from timm's own sub-modules."""
    tokens = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
    groups = [tokens]
    for block in vit.blocks:
        normed = block.norm1(tokens)
        attended = block.attn(normed)
        tokens = tokens + attended
        hidden = block.mlp.act(block.mlp.fc1(block.norm2(tokens)))
        output = block.mlp.fc2(hidden)
        tokens = tokens + output
        groups += [normed, attended, hidden, output]
    last = vit.norm(tokens)
    return [*(group.mean(dim=1) for group in (*groups, last)), vit.forward_head(last, pre_logits=True)]


@pytest.mark.parametrize("architecture", [{}, {"global_pool": "avg"}, {"reg_tokens": 2}, {"pre_norm": True}])
def test_the_features_are_the_averages_of_what_timms_modules_compute(architecture, images):
    vit = tiny_vit(**architecture)
    expected = averages(vit, images)
    features = adapted("head2toe", architecture=architecture).eval().features(images)
    assert [group.shape[1] for group in expected] == group_widths(trunk_of(vit))
    torch.testing.assert_close(features, torch.cat(expected, dim=1), rtol=1e-5, atol=1e-5)


def test_vit_b16_has_66816_features():
    with shapes_alone():
        vit = timm.create_model("vit_base_patch16_224", num_classes=0)
    assert sum(group_widths(trunk_of(vit))) == 12 * (3 * 768 + 3072) + 3 * 768 == 66_816


def test_the_last_layer_computes_the_class_token_only_again_afterwards(images):
    model = adapted("head2toe")
    before = model.encoder.layers[-1].rows
    model(images)
    assert (before, model.encoder.layers[-1].rows) == (1, 1)


def test_what_is_read_of_each_group_has_length_one(images):
    model = adapted("head2toe", keep_fraction=0.3).eval()
    widths = group_widths(model.encoder.trunk)
    whole = model.head[0](model.features(images))
    for group in whole.split(widths, dim=1):
        torch.testing.assert_close(group.norm(dim=1), torch.ones(5))
    model.begin_next_phase(seed=0)
    chosen, index = model.head[0](model.features(images)), model.head[0].index
    assert chosen.shape == (5, int(0.3 * sum(widths)))
    groups = torch.arange(len(widths)).repeat_interleave(torch.tensor(widths))[index]
    for group in groups.unique():
        torch.testing.assert_close(chosen[:, groups == group].norm(dim=1), torch.ones(5))


def test_nothing_but_the_head_trains():
    counts = adapted("head2toe").parameter_counts()
    assert (counts.method, counts.head) == (0, 4 * sum(group_widths(trunk_of(tiny_vit()))) + 4)
    with pytest.raises(peft_vision.core.config.ConfigError, match="keep_fraction"):
        adapted("head2toe", keep_fraction=1.5)
