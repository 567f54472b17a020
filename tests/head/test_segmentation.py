"""Heads for segmentation compute what their papers say, and give logits of each pixel."""

from functools import partial

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import peft_vision
from peft_vision.exchange import onnx_model
from peft_vision.exchange.timm_weights import timm_state
from peft_vision.head.base import Head
from peft_vision.head.segmentation import MultiLinear, SegmentLinear, SetrPup
from peft_vision.models.model import Model
from peft_vision.testing import check_head
from shipped import adapted

SETR = SetrPup(norm="batch", hidden=(8, 6), dropout=0.0, std=0.05)
HEADS = {"segment_linear": "segment_linear", "multi_linear": "multi_linear", "setr_pup": SETR}
LAYERS = {"multi_linear": 2, "setr_pup": 1}  # as few as show what they do
PIXELS = torch.arange(5 * 32 * 32).view(5, 32, 32) % 4


segmenting = partial(adapted, objective="segmentation")


def plain(kind: type[Head], **changes: object) -> Head:
    return kind(**{"norm": "none", "hidden": (), "dropout": 0.0, "std": 0.05, **changes})


def random_head(model: Model) -> Model:
    """The model with a head whose last layer's bias is not zero, and whose norms have seen some images."""
    for parameter in model.head.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    model.train()(torch.randn(5, 3, 32, 32))
    return model.eval()


@pytest.mark.parametrize("head", HEADS)
def test_a_head_passes_the_checks_for_own_ones(head):
    check_head(HEADS[head])


def test_the_linear_head_is_a_convolution_of_the_grid_resized_to_the_image(images):
    model = random_head(segmenting("linear", head=plain(SegmentLinear)))
    linear = model.head.inner[-1]
    grid = model.encoder.observe(images, {"grid"}).grid
    expected = F.conv2d(grid, linear.weight[:, :, None, None], linear.bias)
    expected = F.interpolate(expected, size=(32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(images), expected)


def test_the_norm_is_over_all_places_of_all_images(images):
    model = segmenting("linear", head=plain(SegmentLinear, norm="batch")).train()
    grid, linear = model.encoder.observe(images, {"grid"}).grid, model.head.inner[-1]
    normed = nn.BatchNorm2d(32, affine=False)(grid)
    torch.testing.assert_close(
        model.head(grid), F.conv2d(normed, linear.weight[:, :, None, None], linear.bias), rtol=1e-4, atol=1e-5
    )


def test_the_head_on_several_layers_reads_them_side_by_side(images):
    model = segmenting("linear", head=plain(MultiLinear))
    assert model.readout.width == 3 * 32  # of three layers
    seen = model.encoder.observe(images, {"grids", "grid"})
    grids = model.readout(seen)
    assert torch.equal(grids[:, -32:], seen.grid)
    torch.testing.assert_close(model(images), model.logits(grids))


def test_progressive_upsampling_is_that_of_the_paper(images):
    model = random_head(segmenting("linear", head=plain(SetrPup, norm="batch", hidden=(6, 5))))
    found = model.encoder.observe(images, {"grid"}).grid
    norm, *layers, _ = model.head.layers
    grid = F.layer_norm(found.permute(0, 2, 3, 1), (32,), norm.weight, norm.bias, 1e-6).permute(0, 3, 1, 2)
    for convolution, batch_norm in ((layers[0], layers[1]), (layers[4], layers[5])):
        grid = F.conv2d(grid, convolution.weight, padding=1)
        grid = F.batch_norm(
            grid, batch_norm.running_mean, batch_norm.running_var, batch_norm.scale, batch_norm.shift
        ).relu()
        grid = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)(grid)
    assert grid.shape == (5, 5, 16, 16)
    linear = model.head.classifier
    expected = F.conv2d(grid, linear.weight[:, :, None, None], linear.bias)
    torch.testing.assert_close(model.head(found), expected)
    expected = F.interpolate(expected, size=(32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(images), expected)


def test_four_doublings_of_16_px_patches_are_the_pixels_and_nothing_is_resized():
    head = plain(SetrPup, norm="batch", hidden=(256,) * 4).build(1024, 150)
    count = sum(parameter.numel() for parameter in head.parameters())
    assert count == 1024 * 256 * 9 + 3 * 256 * 256 * 9 + 4 * 2 * 256 + 2 * 1024 + 257 * 150
    assert head.eval()(torch.randn(1, 1024, 2, 3)).shape == (1, 150, 32, 48)


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_other_norms_of_the_convolutions_train(norm, images):
    model = segmenting("linear", head=plain(SetrPup, norm=norm, hidden=(6,), dropout=0.1))
    F.cross_entropy(model(images), PIXELS).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.head.parameters())


@pytest.mark.parametrize("head", HEADS)
def test_logits_are_in_fp32_where_autocast_rounds_all_else(head, images):
    model = random_head(segmenting("lora", head=HEADS[head]))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits.bfloat16().float(), logits)
    torch.testing.assert_close(logits, model(images), rtol=0, atol=0.02 * logits.abs().max().item())


@pytest.mark.parametrize("head", HEADS)
def test_stored_grids_of_16_bit_give_nearly_the_logits_of_images(head, images):
    model = random_head(segmenting("linear", head=HEADS[head]))
    expected = model(images)
    model.round_observations_to(torch.float32, grid=torch.float16)
    seen = model.observe(images)
    kept = {"grids" if head == "multi_linear" else "grid"}
    assert {kind for kind in ("features", "grid", "grids") if getattr(seen, kind) is not None} == kept == model.frozen
    assert seen.pack(*kept).dtype == torch.float16
    assert torch.equal(model(seen), model(images))
    torch.testing.assert_close(model(seen), expected, rtol=0, atol=0.02)


@pytest.mark.parametrize(("head", "depth"), LAYERS.items())
def test_onnxruntime_computes_the_same_logits_of_pixels(head, depth, tmp_path):
    model = random_head(segmenting("lora", head=HEADS[head], architecture={"depth": depth}))
    onnx_model.write(model, tmp_path / "model.onnx")
    (output,) = onnx.load(tmp_path / "model.onnx").graph.output
    assert [axis.dim_value for axis in output.type.tensor_type.shape.dim][1:] == [4, 32, 32]
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(onnx_model.logits(tmp_path / "model.onnx", pixels), model(pixels), rtol=1e-4, atol=1e-4)


def test_timm_has_no_form_of_it():
    with pytest.raises(ValueError, match="its head segments, and timm's models end in a head on one vector"):
        timm_state(segmenting("lora", head="segment_linear"))


@pytest.mark.parametrize(("head", "depth"), LAYERS.items())
def test_compiling_changes_nothing(head, depth, images):
    model = random_head(segmenting("vpt_deep", head=HEADS[head], architecture={"depth": depth}))
    compiled = torch.compile(model, backend="aot_eager")(images)
    torch.testing.assert_close(compiled, model(images), rtol=1e-4, atol=1e-5 * compiled.abs().max().item())


def test_a_saved_file_is_not_taken_for_a_model_of_features(tmp_path, vit):
    model = segmenting("lora", head="segment_linear").eval()
    peft_vision.save(model, tmp_path / "adapter.safetensors")
    again = peft_vision.load(tmp_path / "adapter.safetensors", vit)
    assert again.segments
    assert not peft_vision.adapt(vit, method="lora", num_classes=4).segments


def test_the_last_layer_of_progressive_upsampling_computes_in_fp32_under_autocast():
    head = SetrPup(norm="none", hidden=(4,), dropout=0.0, std=0.01).build(8, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(torch.randn(2, 8, 3, 3)).dtype == torch.float32
