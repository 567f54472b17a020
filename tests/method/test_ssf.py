"""SSF equals scales and shifts written out behind every operation."""

import pytest
from timm.models.vision_transformer import Block
from torch import Tensor

from conftest import tiny_vit
from peft_vision.method.scale_shift import ScaleShift
from peft_vision.models.model import Model
from reference import ARCHITECTURES, assert_computes, randomised, size_on_vit_b16


def logits_by_hand(model: Model, architecture: dict, images: Tensor) -> Tensor:
    """y = scale * x + shift behind patches, norms and linear layers, with the model's scales and shifts."""
    vit, tuned_vit = tiny_vit(**architecture), model.encoder.vit

    def moved(values: Tensor, name: str) -> Tensor:
        place = tuned_vit.get_submodule(name)
        return place.scale * values + place.shift if isinstance(place, ScaleShift) else values

    def attended(index: int, block: Block, tokens: Tensor) -> Tensor:
        attention = block.attn
        qkv = moved(attention.qkv(tokens), f"blocks.{index}.attn.qkv")
        query, key, value = (each.unflatten(2, (2, 16)).transpose(1, 2) for each in qkv.chunk(3, dim=-1))
        weights = (attention.q_norm(query) @ attention.k_norm(key).mT / 4).softmax(dim=-1)
        mixed = (weights @ value).transpose(1, 2).flatten(2)
        return moved(attention.proj(mixed), f"blocks.{index}.attn.proj")

    tokens = vit.patch_embed.proj(images).flatten(2).mT
    tokens = vit._pos_embed(moved(tokens, "patch_embed.proj"))
    for index, block in enumerate(vit.blocks):
        normed = moved(block.norm1(tokens), f"blocks.{index}.norm1")
        tokens = tokens + block.ls1(attended(index, block, normed))
        hidden = block.mlp.fc1(moved(block.norm2(tokens), f"blocks.{index}.norm2"))
        hidden = block.mlp.act(moved(hidden, f"blocks.{index}.mlp.fc1"))
        tokens = tokens + block.ls2(moved(block.mlp.fc2(hidden), f"blocks.{index}.mlp.fc2"))
    if vit.global_pool == "avg":  # the norm stands behind the pooling
        return model.head(moved(vit.fc_norm(tokens[:, vit.num_prefix_tokens :].mean(dim=1)), "fc_norm"))
    return model.head(moved(vit.norm(tokens), "norm")[:, 0])


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
@pytest.mark.parametrize("layers", ["all", (1,), "last-1"], ids=str)
def test_logits_and_gradients_are_those_written_out(layers, architecture, images):
    model = randomised("ssf", architecture=architecture, layers=layers)
    assert_computes(model, images, logits_by_hand(model, architecture, images))


@pytest.mark.parametrize(
    ("layers", "count"),
    [("all", 205_824), ([5], 22 * 768), ("first-1", 24 * 768), ("last-1", 24 * 768)],  # patches, or the final norm
)
def test_parameters_on_vit_b16_are_the_papers(layers, count):
    assert size_on_vit_b16("ssf", layers=layers) == count
