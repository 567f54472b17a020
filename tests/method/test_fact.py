"""FacT equals the sum of its blocks, each added to its place in a weight."""

import pytest
import torch
from timm.layers import SwiGLU, SwiGLUPacked
from torch import Tensor

from conftest import tiny_vit
from peft_vision.core.config import ConfigError
from peft_vision.method.fact import Factorised
from peft_vision.models.model import Model
from reference import (
    ARCHITECTURES,
    assert_changes_nothing,
    assert_computes,
    logits_with,
    randomised,
    size_on_vit_b16,
)
from shipped import adapted

PLACES = {"attn.qkv": 3, "attn.proj": 1, "mlp.fc1": 4, "mlp.fc2": 4}
CUT_OFF = {  # of each layer: the blocks of fc1 and fc2, and how large the last ones are
    "an MLP 2.5 times as wide": ({"mlp_ratio": 2.5}, {**PLACES, "mlp.fc1": 3, "mlp.fc2": 3}, (16, 16)),
    "DINOv2's giant": (
        {"mlp_ratio": 2.66667 * 2, "mlp_layer": SwiGLUPacked},
        {**PLACES, "mlp.fc1": 6, "mlp.fc2": 3},
        (10, 21),
    ),
    "an MLP that is narrower": ({"mlp_ratio": 0.5}, {**PLACES, "mlp.fc1": 1, "mlp.fc2": 1}, (16, 16)),
}


def updated_weights(
    model: Model, architecture: dict, *, method: str, scale: float, places: dict[str, int] = PLACES
) -> dict[str, Tensor]:
    """Block by block: x -> x + scale * x U S V, where a weight is outputs x inputs."""
    plain, width = tiny_vit(**architecture).state_dict(), 32
    factors = model.encoder.get_submodule(method)
    weights = {}
    for name, per_block in ((name, module.own) for name, module in _factorised(model)):
        weight = plain[f"{name}.weight"]
        place = name.split(".", 2)[2]
        assert len(per_block) == places[place]
        blocks = []
        for number, middle in enumerate(per_block):
            if method == "fact_tk":
                middle = sum(share * core for share, core in zip(middle, factors.core, strict=True))
            along = slice(number * width, (number + 1) * width)
            block = weight[:, along] if place == "mlp.fc2" else weight[along]
            outputs, inputs = block.shape  # fewer than the width where the block is cut off
            blocks.append(block + scale * (factors.u @ middle @ factors.v).mT[:outputs, :inputs])
        weights[f"{name}.weight"] = torch.cat(blocks, dim=1 if place == "mlp.fc2" else 0)
    return weights


def _factorised(model: Model) -> list[tuple[str, Factorised]]:
    return [(name, module) for name, module in model.encoder.vit.named_modules() if isinstance(module, Factorised)]


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
@pytest.mark.parametrize("method", ["fact_tt", "fact_tk"])
def test_logits_and_gradients_are_those_of_the_updated_blocks(method, architecture, images):
    model = randomised(method, architecture=architecture, rank=5, scale=0.7)
    weights = updated_weights(model, architecture, method=method, scale=0.7)
    assert len(weights) == 3 * 4
    assert_computes(model, images, logits_with(model, architecture, weights, images))


@pytest.mark.parametrize("method", ["fact_tt", "fact_tk"])
def test_some_layers_alone_are_updated(method, images):
    model = randomised(method, layers=(1,), rank=5)
    weights = updated_weights(model, {}, method=method, scale=1.0)
    assert {name.split(".")[1] for name in weights} == {"1"}
    assert_computes(model, images, logits_with(model, {}, weights, images))


@pytest.mark.parametrize("method", ["fact_tt", "fact_tk"])
def test_attaching_changes_nothing(method, images):
    assert_changes_nothing(adapted(method, rank=5), images)


@pytest.mark.parametrize(
    ("method", "options", "count"),
    [
        ("fact_tt", {}, 61_440),
        ("fact_tk", {}, 86_528),
        ("fact_tk", {"rank": 16}, 30_976),
        ("fact_tt", {"layers": [5]}, 2 * 768 * 16 + 12 * 16**2),
    ],
)
def test_parameters_on_vit_b16_are_the_papers(method, options, count):
    assert size_on_vit_b16(method, **options) == count


def test_dropout_is_of_the_rank_values_before_v():
    torch.manual_seed(0)
    model = randomised("fact_tt", rank=5, dropout=0.5)
    for name, module in _factorised(model):
        mask = 2.0 * torch.randint(0, 2, (5,))
        module.dropout.forward = lambda values, mask=mask: values * mask
        tokens = torch.randn(3, module.in_features)
        factors = module.factors
        blocks = [tokens[:, :32] @ factors.u @ middle * mask @ factors.v for middle in module.own]
        if name.endswith("fc2"):
            parts = tokens.chunk(4, dim=1)
            blocks = [
                sum(
                    part @ factors.u @ middle * mask @ factors.v for part, middle in zip(parts, module.own, strict=True)
                )
            ]
        torch.testing.assert_close(module(tokens), module.inner(tokens) + torch.cat(blocks, dim=1))


def test_what_cannot_be_factorised_is_said():
    with pytest.raises(ConfigError, match=r"method.rank: got 33, but the blocks are 32 x 32: at most 32"):
        adapted("fact_tt", rank=33)
    encoder = adapted("linear", architecture={"mlp_layer": SwiGLU}).encoder
    with pytest.raises(ConfigError, match=r"it changes blocks\.0\.mlp\.fc1, .* its SwiGLU has fc1_g, fc1_x, fc2"):
        encoder.part("blocks.0.mlp.fc1")


def test_the_two_matrices_of_a_gated_mlp_are_factorised_each(images):
    architecture = {"mlp_layer": SwiGLU, "mlp_ratio": 2.0}
    model = randomised("fact_tk", architecture=architecture, rank=5, scale=0.7)
    places = {"attn.qkv": 3, "attn.proj": 1, "mlp.fc1_g": 2, "mlp.fc1_x": 2, "mlp.fc2": 2}
    weights = updated_weights(model, architecture, method="fact_tk", scale=0.7, places=places)
    assert_computes(model, images, logits_with(model, architecture, weights, images))


@pytest.mark.parametrize(("architecture", "places", "last"), CUT_OFF.values(), ids=CUT_OFF.keys())
@pytest.mark.parametrize("method", ["fact_tt", "fact_tk"])
def test_where_a_side_is_no_multiple_of_the_width_the_last_block_is_cut_off(method, architecture, places, last, images):
    model = randomised(method, architecture=architecture, rank=5, scale=0.7)
    mlp = model.encoder.layers[0].mlp
    assert (mlp.fc1.out_features % 32, mlp.fc2.in_features % 32) == last
    weights = updated_weights(model, architecture, method=method, scale=0.7, places=places)
    assert_computes(model, images, logits_with(model, architecture, weights, images))


@pytest.mark.parametrize("rows", [slice(0, 32), slice(32, 96), slice(5, 40), slice(33, 41), slice(90, 96)], ids=str)
def test_any_rows_alone_are_those_of_the_whole(rows):
    wrapper = randomised("fact_tk", rank=5, dropout=0.0).encoder.layers[0].attn.qkv
    tokens = torch.randn(3, 32)
    torch.testing.assert_close(wrapper.part(tokens, rows), wrapper(tokens)[:, rows])
