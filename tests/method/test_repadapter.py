"""RepAdapter equals a grouped convolution of length one before qkv and before the MLP, as in the authors' code."""

import pytest
from timm.models.vision_transformer import Block
from torch import Tensor
from torch.nn import functional as F

from conftest import tiny_vit
from peft_vision.core.config import ConfigError
from peft_vision.method.repadapter import InputAdapter
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


def adapted_by_hand(adapter: InputAdapter, tokens: Tensor, *, scale: float, groups: int) -> Tensor:
    """(B, N, D) to (B, N, D)."""
    hidden = F.conv1d(tokens.mT, adapter.down.weight.unsqueeze(2), adapter.down.bias)
    return tokens + scale * F.conv1d(hidden, adapter.up.unsqueeze(2), adapter.bias, groups=groups).mT


def logits_by_hand(model: Model, architecture: dict, images: Tensor, **options: float) -> Tensor:
    def through(index: int, block: Block, tokens: Tensor) -> Tensor:
        layer = model.encoder.layers[index]
        normed = adapted_by_hand(layer.attn.qkv, block.norm1(tokens), **options)
        tokens = tokens + block.ls1(block.attn(normed))
        normed = adapted_by_hand(layer.mlp.fc1, block.norm2(tokens), **options)
        return tokens + block.ls2(block.mlp(normed))

    return model.head(features_through(tiny_vit(**architecture), images, through))


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_logits_and_gradients_are_those_of_grouped_convolutions(groups, architecture, images):
    model = randomised("repadapter", architecture=architecture, groups=groups, scale=0.5)
    assert_computes(model, images, logits_by_hand(model, architecture, images, scale=0.5, groups=groups))


def test_attaching_changes_nothing(images):
    assert_changes_nothing(adapted("repadapter"), images)


@pytest.mark.parametrize(
    ("options", "count"), [({}, 239_808), ({"groups": 1}, 239_808 + 12 * 2 * 4 * 768), ({"layers": [0]}, 239_808 // 12)]
)
def test_parameters_on_vit_b16_are_the_papers(options, count):
    assert size_on_vit_b16("repadapter", **options) == count


@pytest.mark.parametrize("options", [{"rank": 9}, {"groups": 3}, {"rank": 34}])
def test_the_rank_is_a_multiple_of_the_groups_and_at_most_the_width(options):
    with pytest.raises(ConfigError, match=r"method.rank: got .*, should be at most 32; .* multiples of method.groups="):
        adapted("repadapter", **options)
