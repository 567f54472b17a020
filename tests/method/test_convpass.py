"""Convpass equals its convolution pixel by pixel, written out around untouched blocks."""

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from conftest import tiny_vit
from peft_vision.method.convpass import Bypass
from peft_vision.models.model import Model
from reference import (
    ARCHITECTURES,
    assert_changes_nothing,
    assert_computes,
    features_through,
    randomised,
    size_on_vit_b16,
)
from shipped import adapted

VARIANTS = {**ARCHITECTURES, "no class token": {"class_token": False, "global_pool": "avg"}}


def act(values: Tensor) -> Tensor:
    return values / (1 + torch.exp(-1.702 * values))


def bypass_by_hand(bypass: Bypass, normed: Tensor, *, single: int, side: int) -> Tensor:
    """Each pixel is the sum of what its nine neighbours send; a single token is an image of one pixel."""
    hidden = act(normed @ bypass.down.weight.mT + bypass.down.bias)
    kernel, bias = bypass.convolution.weight, bypass.convolution.bias
    pixels = [hidden[:, index] @ kernel[:, :, 1, 1].mT + bias for index in range(single)]
    for row in range(side):
        for column in range(side):
            pixel = bias.expand(len(hidden), -1)
            for y in range(max(0, row - 1), min(side, row + 2)):
                for x in range(max(0, column - 1), min(side, column + 2)):
                    pixel = pixel + hidden[:, single + y * side + x] @ kernel[:, :, y - row + 1, x - column + 1].mT
            pixels.append(pixel)
    return bypass.scale * (act(torch.stack(pixels, dim=1)) @ bypass.up.weight.mT + bypass.up.bias)


def logits_by_hand(model: Model, architecture: dict, images: Tensor) -> Tensor:
    vit = tiny_vit(**architecture)
    sizes = {"single": vit.num_prefix_tokens, "side": 4}

    def through(index: int, block: Block, tokens: Tensor) -> Tensor:
        layer = model.encoder.layers[index]
        normed = block.norm1(tokens)
        tokens = tokens + block.ls1(block.attn(normed)) + bypass_by_hand(layer.beside_attention[0], normed, **sizes)
        normed = block.norm2(tokens)
        return tokens + block.ls2(block.mlp(normed)) + bypass_by_hand(layer.beside_mlp[0], normed, **sizes)

    return model.head(features_through(vit, images, through))


@pytest.mark.parametrize("architecture", VARIANTS.values(), ids=VARIANTS.keys())
def test_logits_and_gradients_are_those_of_a_convolution_written_out(architecture, images):
    model = randomised("convpass", architecture=architecture, rank=3, scale=0.5)
    assert_computes(model, images, logits_by_hand(model, architecture, images))


def test_a_grid_that_is_no_square_keeps_rows_and_columns_apart():
    """A kernel that looks one pixel up moves every row down by one, and nothing sideways."""
    torch.manual_seed(0)
    bypass = Bypass(6, 6, nn.Identity(), scale=1.0, dropout=0.0)
    bypass.grid, bypass.single = (2, 3), 1
    bypass.down.weight.data = bypass.up.weight.data = torch.eye(6)
    bypass.convolution.weight.data.zero_()
    bypass.convolution.weight.data[:, :, 0, 1] = torch.eye(6)
    tokens = torch.randn(1, 7, 6)
    moved = torch.cat([torch.zeros(1, 4, 6), tokens[:, 1:4]], dim=1)
    torch.testing.assert_close(bypass(tokens, tokens), act(act(moved)))


def test_tokens_behind_the_patches_and_tokens_alone_are_images_of_one_pixel():
    torch.manual_seed(0)
    bypass = Bypass(8, 4, nn.Identity(), scale=1.0, dropout=0.0)
    bypass.grid, bypass.single = (2, 2), 1
    for parameter in bypass.parameters():
        torch.nn.init.normal_(parameter)
    tokens = torch.randn(2, 8, 8)  # class token, four patches, three prompts
    whole = bypass(tokens, tokens)
    for index in (0, 5, 6, 7):
        alone = tokens[:, index : index + 1]
        torch.testing.assert_close(whole[:, index : index + 1], bypass(alone, alone))
    torch.testing.assert_close(whole[:, :5], bypass(tokens[:, :5], tokens[:, :5]))


def test_the_bypass_reads_the_norm_and_not_the_stream():
    bypass = Bypass(8, 4, nn.Identity(), scale=1.0, dropout=0.0)
    bypass.grid, bypass.single = (1, 2), 1
    torch.nn.init.normal_(bypass.up.weight)
    tokens, normed = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    assert torch.equal(bypass(tokens, normed), bypass(torch.zeros_like(tokens), normed))


def test_attaching_changes_nothing(images):
    assert_changes_nothing(adapted("convpass"), images)


@pytest.mark.parametrize(("layers", "count"), [("all", 327_552), ("last-1", 327_552 // 12)])
def test_parameters_on_vit_b16_are_the_papers(layers, count):
    assert size_on_vit_b16("convpass", layers=layers) == count
