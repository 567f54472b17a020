"""The grid of every family and variant is timm's own, and so are the grids of several layers."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from any_variants import ANY, small_any
from test_any import adapted as of_any
from test_features import pictures
from test_methods import IMAGES, adapted
from torch import nn
from torch.nn import functional as F
from variants import CONVNEXT, SWIN, TOKENS, VARIANTS, small

import peft_vision
from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.families.trunk import spread
from peft_vision.core.config import ConfigError
from peft_vision.core.preprocessing import Preprocessing, one_size
from peft_vision.models.model import Model

SIZES = ((32, 32), (40, 24))
OTHER = (64, 36)  # of those that take any size, no multiple of their patches
TOKEN_METHODS = ("vpt_deep", "ssf", "bitfit", "pad")
SOME_CONVNEXT = ("ConvNeXt", "ConvNeXt-V2, 1x1 convolutions", "ConvNeXt, norm before pooling", "ConvNeXt of CLIP")
MAPS = [name for name in ANY if name not in ("Hiera", "mixer")]


def showing(model: nn.Module, size: tuple[int, int]) -> Encoder:
    preprocessing = Preprocessing(one_size(*size), (0.5,) * 3, (0.5,) * 3, "bicubic", 1.0)
    encoder = Encoder(copy.deepcopy(model).requires_grad_(False), preprocessing).eval()
    encoder.show_grid()
    return encoder


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_grids_are_timms_and_their_shapes_are_known_before(variant, size):
    size = OTHER if variant in CONVNEXT and size != (32, 32) else size
    model = small(variant, img_size=size).eval()
    encoder, images = showing(model, size), pictures(*size)
    seen = encoder.observe(images, {"grid", "grids", "features"})
    shapes = encoder.observed_shapes()
    assert (seen.grid.shape[1:], seen.grids.shape[1:]) == (shapes["grid"], shapes["grids"])
    _, expected = model.forward_intermediates(images, norm=True)
    torch.testing.assert_close(seen.grid, expected[-1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(seen.features, model(images), rtol=1e-5, atol=1e-5)
    layers = encoder.trunk.grid_layers
    expected = [expected[layer] for layer in layers] if variant in TOKENS else expected[-4:]
    assert [grid.shape[1:] for grid in expected] == list(encoder.grid_shapes())
    torch.testing.assert_close(
        seen.grids, torch.cat([grid.flatten(1) for grid in expected], dim=1), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    "variant", ["DINOv3", "BEiT", "relative, class token", "ViT", "distilled DeiT", "Swin", "ConvNeXt"]
)
def test_grids_resume_from_any_layer_before_those_that_they_show(variant):
    encoder, images = showing(small(variant), (32, 32)), pictures(32, 32)
    whole = encoder.observe(images, {"grid", "grids"})
    assert whole.features is None
    for depth, kinds in ((encoder.trunk.grid_layers[0], {"grid", "grids"}), (len(encoder.layers) - 1, {"grid"})):
        tokens = encoder.observe(images, {"tokens"}, depth=depth).tokens
        seen = encoder.resume(tokens, kinds, depth=depth)
        for kind in kinds:
            assert torch.equal(seen.pack(kind), whole.pack(kind))


@pytest.mark.parametrize(
    ("depth", "layers"),
    [
        (12, (2, 5, 8, 11)),
        (24, (5, 11, 17, 23)),
        (40, (9, 19, 29, 39)),
        (6, (1, 2, 4, 5)),
        (4, (0, 1, 2, 3)),
        (3, (0, 1, 2)),
        (2, (0, 1)),
        (1, (0,)),
    ],
)
def test_layers_are_evenly_spread_and_the_last_is_among_them(depth, layers):
    """The first three are those of DINOv3's released code, but for its 4 instead of 5 of 24."""
    assert spread(depth) == layers


@pytest.mark.parametrize("variant", MAPS)
def test_the_last_features_of_any_other_model_are_a_grid_if_they_are_a_map(variant):
    model, images = small_any(variant, recorded=True).eval(), torch.randn(2, 3, 64, 64)
    encoder = showing(model, (64, 64))
    grid = encoder.observe(images, {"grid"}).grid
    with torch.no_grad():
        shown = model.forward_features(images)
    assert torch.equal(grid, shown.permute(0, 3, 1, 2) if variant == "MambaOut" else shown)
    size = encoder.image_size or (64, 64)  # MaxViT's is another one by its own account
    images = torch.randn(1, 3, *size)
    assert encoder.observe(images, {"grid"}).grid.shape[1:] == encoder.observed_shapes()["grid"]
    with pytest.raises(ConfigError, match="shows its last features alone; use segment_linear or setr_pup"):
        encoder.require({"grids"}, group="head")


@pytest.mark.parametrize("variant", ["Hiera", "mixer"])
def test_features_that_are_no_map_are_refused_in_a_line(variant):
    encoder = showing(small_any(variant), (64, 64))
    with pytest.raises(ConfigError, match=r"^head: it needs features at each place .* shows \(1, \d+, \d+\) of one im"):
        encoder.require({"grid"}, group="head")
    assert "grid" not in encoder.observed_shapes()


@pytest.mark.parametrize("variant", ["CLIP's ResNet", "ResNet", "MaxViT", "EfficientNet"])
def test_what_only_pooling_reads_of_any_other_model_is_found(variant):
    model = small_any(variant).eval()
    model.forward_features(torch.randn(1, 3, 64, 64)).sum().backward()
    unread = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    encoder = showing(model, (64, 64))
    names = {parameter: name for name, parameter in encoder.vit.named_parameters()}
    assert {names[parameter] for parameter in encoder.trunk.pooling()} == unread


@pytest.mark.parametrize("variant", [*SWIN, *CONVNEXT, "ViT", "attention pooling", "BEiT", "relative"])
def test_what_only_pooling_reads_is_known(variant):
    encoder = showing(small(variant), (32, 32))
    encoder.requires_grad_(True)
    seen = encoder.observe(pictures(32, 32), {"grid"})
    seen.grid.square().sum().backward()
    unread = {parameter for parameter in encoder.parameters() if parameter.grad is None}
    assert set(encoder.trunk.pooling()) == unread


def test_a_model_that_shows_no_grid_computes_and_stores_what_it_did():
    vit = timm.create_model("test_vit", num_classes=0)
    encoder = Encoder(vit)
    assert encoder.layers[-1].rows == 1
    assert {"grid", "grids"}.isdisjoint(encoder.observed_shapes())
    encoder.show_grid()
    assert encoder.layers[-1].rows == encoder.num_tokens == 1 + math.prod(vit.patch_embed.grid_size)


SOME_TOKENS = ("DINOv3", "BEiT", "relative", "distilled DeiT")
SEGMENTING = [
    *[(variant, method) for variant in SOME_TOKENS for method in TOKEN_METHODS],
    *[(variant, method) for variant in ("Swin", "Swin-V2") for method in TOKEN_METHODS if method != "pad"],
    *[(variant, method) for variant in SOME_CONVNEXT for method in ("ssf", "full", "pad")],
    ("ConvNeXt", "adapter_houlsby"),
    ("attention pooling", "full"),
    ("attention pooling", "bitfit"),
]
SEGMENTING = [(*pair, "segment_linear") for pair in SEGMENTING]
SEGMENTING += [(variant, "lora", "multi_linear") for variant in (*SOME_TOKENS, "Swin", "Swin-V2", *SOME_CONVNEXT)]
SEGMENTING += [("attention pooling", "full", "multi_linear"), ("Swin", "vpt_deep", "multi_linear")]
SEGMENTING += [("BEiT", "bitfit", "multi_linear"), ("ConvNeXt", "full", "multi_linear")]


@pytest.mark.parametrize(("variant", "method", "head"), SEGMENTING)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of timm's resampling of tables for a border
def test_a_method_trains_what_a_grid_shows_and_is_saved(variant, method, head, tmp_path):
    model = adapted(variant, method, head=head, objective="segmentation")
    assert_trained_and_saved(model, IMAGES, lambda: small(variant), tmp_path)


@pytest.mark.parametrize(
    ("variant", "method"),
    [
        ("CLIP's ResNet", "full"),
        ("CLIP's ResNet", "lora"),
        ("EfficientNet", "full"),
        ("EfficientNet", "ssf"),
        ("MambaOut", "lora"),
    ],
)
def test_a_method_trains_what_the_grid_of_any_other_model_shows_and_is_saved(variant, method, tmp_path):
    model = of_any(
        variant, method, head="segment_linear", objective="segmentation", **({"rank": 2} if method == "lora" else {})
    )
    assert_trained_and_saved(model, torch.randn(4, 3, 64, 64), lambda: small_any(variant), tmp_path)


def assert_trained_and_saved(model: Model, images: torch.Tensor, vit: Callable[[], nn.Module], folder: Path) -> None:
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    labels = torch.arange(images[:, 0].numel()).view(images[:, 0].shape) % 4
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    model.eval()
    with torch.no_grad():
        logits = model(images)
        assert logits.shape == (len(images), 4, *images.shape[2:])
        peft_vision.save(model, folder / "adapter.safetensors")
        assert torch.equal(peft_vision.load(folder / "adapter.safetensors", vit())(images), logits)
        if model.frozen is not None and images.shape[1:] == model.preprocessing.shape:
            torch.testing.assert_close(model(model.observe(images)), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", ["Swin", "ConvNeXt"])
def test_grids_of_several_sizes_are_resized_to_the_largest(variant):
    model = adapted(variant, "linear", head="multi_linear", objective="segmentation").eval()
    read = model.readout(model.observe(IMAGES))
    grids = small(variant).eval().forward_intermediates(IMAGES, norm=True, intermediates_only=True)[-4:]
    resized = [F.interpolate(grid, size=(8, 8), mode="bilinear", align_corners=False) for grid in grids]
    torch.testing.assert_close(read, torch.cat(resized, dim=1), rtol=1e-5, atol=1e-5)
    assert model.readout.width == read.shape[1]


def test_batch_statistics_move_where_all_trains_though_what_only_pooling_reads_does_not():
    model = of_any("CLIP's ResNet", "full", head="segment_linear", objective="segmentation")
    pooling = set(model.encoder.trunk.pooling())
    assert pooling
    assert not any(parameter.requires_grad for parameter in pooling)
    assert model.encoder.held() == []
