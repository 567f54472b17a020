"""Bottleneck adapters equal blocks written out by hand, at each of their four places."""

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import Tensor
from torch.nn import functional as F

from conftest import tiny_vit
from peft_vision.core.composition import option
from peft_vision.core.config import ConfigError, build
from peft_vision.method.bottleneck import AdapterLayer, Bottleneck
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

PRESETS = ["adapter_houlsby", "adapter_pfeiffer", "adaptformer", "adapter_plus"]
ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu}


def adapters(model: Model) -> list[list[AdapterLayer]]:
    """Of each layer, in the order they are met."""
    return [
        [module for module in layer.modules() if isinstance(module, AdapterLayer)] for layer in model.encoder.layers
    ]


def f(adapter: AdapterLayer, tokens: Tensor, activation: str) -> Tensor:
    down, up = adapter.down, adapter.up
    hidden = ACTIVATIONS[activation](tokens @ down.weight.mT + down.bias)
    return adapter.scale * (hidden @ up.weight.mT + up.bias)


def block_by_hand(
    placement: str, block: Block, block_adapters: list[AdapterLayer], tokens: Tensor, activation: str
) -> Tensor:
    """The equations of the four papers."""
    attended = block.ls1(block.attn(block.norm1(tokens)))
    if placement == "attention_and_mlp":
        attended = attended + f(block_adapters[0], attended, activation)
    tokens = tokens + attended
    computed = block.ls2(block.mlp(block.norm2(tokens)))
    if placement in ("attention_and_mlp", "mlp"):
        computed = computed + f(block_adapters[-1], computed, activation)
    if placement == "beside_mlp":
        computed = computed + f(block_adapters[0], tokens, activation)
    tokens = tokens + computed
    return tokens + f(block_adapters[0], tokens, activation) if placement == "layer" else tokens


def logits_by_hand(model: Model, architecture: dict, images: Tensor, *, placement: str, activation: str) -> Tensor:
    by_block = adapters(model)

    def through(index: int, block: Block, tokens: Tensor) -> Tensor:
        return (
            block_by_hand(placement, block, by_block[index], tokens, activation) if by_block[index] else block(tokens)
        )

    return model.head(features_through(tiny_vit(**architecture), images, through))


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
@pytest.mark.parametrize("method", PRESETS)
def test_logits_and_gradients_are_those_of_blocks_written_out(method, architecture, images):
    model = randomised(method, architecture=architecture, layers=(0, 2))
    options = model.recipe.method
    assert [len(block_adapters) for block_adapters in adapters(model)] == (
        [2, 0, 2] if method == "adapter_houlsby" else [1, 0, 1]
    )
    expected = logits_by_hand(
        model, architecture, images, placement=options["placement"], activation=options["activation"]
    )
    assert_computes(model, images, expected)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("placement", ["attention_and_mlp", "mlp", "beside_mlp", "layer"])
def test_every_place_takes_every_activation_scale_and_learned_scale(placement, activation, images):
    for channel_scale in (False, True):
        options = {"placement": placement, "activation": activation, "scale": 0.7, "channel_scale": channel_scale}
        model = randomised("adapter_houlsby", **options)
        assert all(
            isinstance(adapter.scale, Tensor) is channel_scale
            for block_adapters in adapters(model)
            for adapter in block_adapters
        )
        expected = logits_by_hand(model, {}, images, placement=placement, activation=activation)
        assert_computes(model, images, expected)


@pytest.mark.parametrize(
    ("method", "options", "count"),
    [
        ("adapter_houlsby", {}, 313_536),
        ("adapter_pfeiffer", {}, 156_768),
        ("adaptformer", {}, 156_768),
        ("adaptformer", {"rank": 64}, 1_189_632),
        ("adapter_plus", {}, 165_984),
        ("adapter_plus", {"layers": "last-1"}, 165_984 // 12),
    ],
)
def test_parameters_on_vit_b16_are_the_papers(method, options, count):
    assert size_on_vit_b16(method, **options) == count


def test_adaptformer_changes_nothing_at_first(images):
    assert_changes_nothing(adapted("adaptformer"), images)


@pytest.mark.parametrize("placement", ["attention_and_mlp", "mlp", "beside_mlp", "layer"])
def test_zero_up_changes_nothing_wherever_it_is(placement, images):
    assert_changes_nothing(adapted("adapter_houlsby", placement=placement, initial="zero_up"), images)


def test_drop_path_leaves_out_the_adapter_of_a_whole_image_or_doubles_it(images):
    model = randomised("adapter_plus", drop_path=0.5, layers="last-1")
    with_and_without = [adapted("linear").eval().features(images)]
    adapter = adapters(model)[2][0]
    adapter.scale.data *= 2
    with_and_without.append(model.features(images))
    adapter.scale.data /= 2
    whole = torch.stack([model.train().features(images) for _ in range(8)])
    distances = torch.stack([(whole - each).abs().amax(dim=-1) for each in with_and_without])
    assert (distances < 1e-5).any(dim=0).all()
    assert (distances < 1e-5).any(dim=(1, 2)).all()  # either happens


def test_dropout_is_of_hidden_units_and_only_in_training():
    torch.manual_seed(0)
    options = {"activation": "relu", "initial": "small", "scale": 1.0, "channel_scale": False, "drop_path": 0.0}
    method = build({**option("method", "adaptformer"), "rank": 4, "dropout": 0.5, **options}, Bottleneck, "method")
    adapter, tokens = AdapterLayer(8, method), torch.randn(1, 6, 8)
    hidden = F.relu(adapter.down(tokens))
    masks = torch.cartesian_prod(*[torch.tensor([0.0, 2.0])] * 4)
    possible = adapter.up(hidden.unsqueeze(2) * masks)  # (1, 6, 16, 8)
    nearest = (possible - adapter(tokens).unsqueeze(2)).abs().amax(dim=3).amin(dim=2)
    assert nearest.max() < 1e-6
    torch.testing.assert_close(adapter.eval()(tokens), adapter.up(hidden))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"placement": "before"}, "method.placement: got 'before', should be 'attention_and_mlp', "),
        ({"initial": "zero"}, "method.initial: got 'zero'"),
        ({"rank": 0}, "method.rank: got 0"),
        ({"scale": 0}, "method.scale: got 0"),
        ({"drop_path": 1.0}, "method.drop_path: got 1.0"),
    ],
)
def test_what_is_wrong_with_an_option_is_said(options, message):
    with pytest.raises(ConfigError, match=message):
        adapted("adapter_plus", **options)
