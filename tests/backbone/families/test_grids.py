"""VPT on Swin and ConvNeXt computes what the paper defines, written out with timm's own modules, and their layers of
several widths and grids are described as they are."""

import math

import pytest
import timm
import torch
from test_methods import IMAGES, LABELS, adapted, assert_checkpointing_changes_no_gradient
from timm.models.swin_transformer import window_partition, window_reverse
from torch.nn import functional as F
from variants import CONVNEXT, SWIN, VARIANTS, small

import peft_vision
from peft_vision.backbone.encoder import Encoder
from peft_vision.core.config import ConfigError
from peft_vision.exchange.timm_weights import timm_state
from peft_vision.models.model import Model
from shipped import adapted_to


def own_timm(variant: str, model: Model, size: int = 32) -> torch.nn.Module:
    """Untouched modules of timm's with the model's own weights."""
    plain = small(variant)
    if size != 32 and hasattr(plain, "set_input_size"):
        model_windows = {"window_size": plain._ref_window_sizes} if variant in SWIN else {}
        plain.set_input_size(img_size=(size, size), **model_windows)
    return plain.eval()


def attention(block, windows: torch.Tensor, count: int, mask: torch.Tensor | None) -> torch.Tensor:
    """Attention within each of the windows (n, P + A, D), whose first `count` tokens are prompts: timm's tables and
    masks have zeros for them."""
    attn, is_v2 = block.attn, hasattr(block.attn, "logit_scale")
    qkv = attn.qkv(windows)
    is_cr = hasattr(attn, "meta_mlp")
    if is_v2 and not is_cr and attn.q_bias is not None:
        qkv = qkv + torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
    q, k, v = qkv.reshape(*windows.shape[:2], 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    if is_v2:
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT
        scores = scores * attn.logit_scale.clamp(max=math.log(100)).exp().view(-1, 1, 1)
    if is_cr:
        table = attn._relative_positional_encodings()[0]
    elif is_v2:
        table = attn.cpb_mlp(attn.relative_coords_table).view(-1, attn.num_heads)
        area = block.window_area
        table = 16 * torch.sigmoid(table[attn.relative_position_index.view(-1)].view(area, area, -1).permute(2, 0, 1))
    else:
        scores, table = (q * attn.scale) @ k.mT, attn._get_rel_pos_bias()[0]
    scores = scores + F.pad(table, (count, 0, count, 0))
    if mask is not None:  # (W, A, A), the windows of an image after those of the one before
        scores = scores + F.pad(mask, (count, 0, count, 0)).repeat(len(scores) // len(mask), 1, 1).unsqueeze(1)
    return attn.proj((scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2))


def prompted(block, prompts: torch.Tensor, grid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One block of the paper's Swin, for prompts (B, P, D) and patches (B, H, W, D)."""
    batch, count = prompts.shape[:2]
    post = hasattr(block.attn, "logit_scale")
    height, width = grid.shape[1:3]
    normed, normed_prompts = (grid, prompts) if post else (block.norm1(grid), block.norm1(prompts))
    shifted = normed.roll([-steps for steps in block.shift_size], dims=(1, 2))
    missing = [-side % length for side, length in zip((height, width), block.window_size, strict=True)]
    shifted = F.pad(shifted, (0, 0, 0, missing[1], 0, missing[0]))
    windows = window_partition(shifted, block.window_size).flatten(1, 2)  # the windows of the first image first
    per_image = len(windows) // batch
    everywhere = normed_prompts.repeat_interleave(per_image, dim=0)
    attended = attention(block, torch.cat([everywhere, windows], dim=1), count, block.attn_mask)
    of_prompts = attended[:, :count].view(batch, per_image, count, -1).mean(dim=1)
    of_grid = window_reverse(
        attended[:, count:].unflatten(1, block.window_size), block.window_size, *shifted.shape[1:3]
    )
    of_grid = of_grid[:, :height, :width].roll(block.shift_size, dims=(1, 2))
    result = []
    for tokens, update in ((prompts, of_prompts), (grid, of_grid)):
        tokens = tokens + (block.norm1(update) if post else update)
        tokens = tokens + (block.norm2(block.mlp(tokens)) if post else block.mlp(block.norm2(tokens)))
        result.append(block.norm3(tokens) if hasattr(block, "norm3") else tokens)
    return result[0], result[1]


def merged(downsample, prompts: torch.Tensor) -> torch.Tensor:
    """A prompt takes the place of all four patches."""
    four = torch.cat([prompts] * 4, dim=-1)
    if downsample.norm.normalized_shape[0] == four.shape[-1]:
        return downsample.reduction(downsample.norm(four))
    return downsample.norm(downsample.reduction(four))


def by_the_paper(variant: str, model: Model, prompts: list[torch.Tensor], *, deep: bool, pooled: bool) -> torch.Tensor:
    """The logits of VPT, step by step. `pooled`: with the prompts, as in the authors' code."""
    plain = own_timm(variant, model)
    grid = plain.patch_embed(IMAGES)
    present, number = prompts[0].expand(len(IMAGES), -1, -1), 0
    is_cr = hasattr(plain, "stages")
    if is_cr:
        grid = grid.permute(0, 2, 3, 1)
    for group in plain.stages if is_cr else plain.layers:
        if not isinstance(group.downsample, torch.nn.Identity):
            grid, present = group.downsample(grid), merged(group.downsample, present)
        for block in group.blocks:
            if deep:
                present = prompts[number].expand(len(IMAGES), -1, -1)
            present, grid = prompted(block, present, grid)
            number += 1
    tokens = grid.flatten(1, 2)
    tokens = torch.cat([present, tokens], dim=1) if pooled else tokens
    tokens = tokens if is_cr else plain.norm(tokens)
    reduce = {"avg": tokens.mean(dim=1), "max": tokens.amax(dim=1)}["avg" if is_cr else plain.global_pool]
    return model.head(reduce)


@pytest.mark.parametrize("variant", SWIN)
@pytest.mark.parametrize("pooled", [False, True])
def test_deep_prompts_on_swin_are_the_papers(variant, pooled):
    model = adapted(variant, "vpt_deep", num_prompts=3, pool_prompts=pooled).eval()
    ports = [layer.context or layer.entrance.prompts for layer in model.encoder.layers]
    prompts = [port(1)[0] for port in ports]
    assert [tokens.shape[1] for tokens in prompts] == [stage.width for stage in model.encoder.stages]
    expected = by_the_paper(variant, model, prompts, deep=True, pooled=pooled)
    torch.testing.assert_close(model(IMAGES), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", SWIN)
@pytest.mark.parametrize("pooled", [False, True])
def test_shallow_prompts_on_swin_are_the_papers(variant, pooled):
    model = adapted(variant, "vpt_shallow", num_prompts=3, pool_prompts=pooled).eval()
    prompts = model.encoder.layers[0].entrance.prompts(1)[0]
    expected = by_the_paper(variant, model, [prompts], deep=False, pooled=pooled)
    torch.testing.assert_close(model(IMAGES), expected, rtol=1e-5, atol=1e-5)
    expected.square().sum().backward()
    reference = model.encoder.layers[0].entrance.prompts.prompts.grad.clone()
    model.zero_grad()
    model(IMAGES).square().sum().backward()
    found = model.encoder.layers[0].entrance.prompts.prompts.grad
    torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["vpt_shallow", "vpt_deep"])
def test_an_image_does_not_depend_on_the_others_of_its_batch(method):
    """The authors' code mixes the windows of different images in VPT-shallow."""
    model = adapted("Swin", method).eval()
    together = model(IMAGES)
    alone = torch.cat([model(image.unsqueeze(0)) for image in IMAGES])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", ["Swin", "Swin-V2"])
@pytest.mark.parametrize("method", ["vpt_shallow", "vpt_deep"])
def test_prompts_are_projected_once_and_not_once_a_window(variant, method):
    model = adapted(variant, method, num_prompts=3, layers="all")
    counts: list[int] = []
    qkv = model.encoder.layers[0].attn.qkv
    qkv.register_forward_hook(lambda module, args, output: counts.append(args[0].shape[0] * args[0].shape[1]))
    model(IMAGES)
    patches = 64 * len(IMAGES)
    assert counts == [patches + 3 * len(IMAGES)] if method == "vpt_shallow" else counts == [patches]


def test_prompts_of_all_widths_begin_within_the_bound_of_the_first():
    model = adapted("Swin", "vpt_deep", num_prompts=200)
    bound = math.sqrt(6 / (3 * 4 * 4 + 16))
    for layer in model.encoder.layers:
        assert 0.97 * bound < layer.context.prompts.abs().max() <= bound


def test_layers_of_one_width_share_a_projection():
    model = adapted("Swin", "vpt_deep", projection=5)
    contexts = [layer.context for layer in model.encoder.layers]
    assert contexts[0].project is contexts[1].project
    assert [context.project.out_features for context in contexts] == [16, 16, 32, 64, 64]


def surrounded(model: Model, images: torch.Tensor) -> torch.Tensor:
    """The images with the pixels of the border, normalised like those of an image."""
    border, thickness = model.encoder.border, model.encoder.border.thickness
    mean, std = model.normalize.mean, model.normalize.std
    height, width = images.shape[2:]
    canvas = images.new_zeros(len(images), 3, height + 2 * thickness, width + 2 * thickness)
    ends, sides = (border.ends - mean) / std, (border.sides - mean) / std
    canvas[:, :, :thickness] = ends[:, :thickness]
    canvas[:, :, -thickness:] = ends[:, thickness:]
    canvas[:, :, thickness:-thickness, :thickness] = sides[:, :, :thickness]
    canvas[:, :, thickness:-thickness, -thickness:] = sides[:, :, thickness:]
    canvas[:, :, thickness:-thickness, thickness:-thickness] = images
    return canvas


@pytest.mark.filterwarnings("ignore::UserWarning")  # of timm's resampling of tables
@pytest.mark.parametrize("variant", ["ConvNeXt", "ConvNeXt-V2, 1x1 convolutions", "ViT", "DINOv3", "BEiT", "Swin"])
def test_a_border_is_timms_model_of_larger_pictures(variant):
    model = adapted(variant, "vpt_shallow", location="pad", num_prompts=4).eval()
    assert model.parameter_counts().method == 12 * 4 * (32 + 4)
    plain = own_timm(variant, model, size=40)
    expected = model.head(plain(surrounded(model, IMAGES)))
    torch.testing.assert_close(model(IMAGES), expected, rtol=1e-5, atol=1e-5)


def test_pixels_of_a_border_begin_like_those_of_a_picture():
    border = adapted("ConvNeXt", "vpt_shallow", location="pad", num_prompts=6).encoder.border
    for pixels in (border.sides, border.ends):
        assert 0 <= pixels.min() < 0.05
        assert 0.95 < pixels.max() <= 1


def test_a_border_surrounds_the_pictures_of_any_timm_model():
    model = timm.create_model("resnet18", num_classes=0)
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 32, 32)}
    bordered = peft_vision.adapt(model, method="vpt_shallow", num_classes=4, location="pad", num_prompts=3).eval()
    expected = bordered.head(model.eval()(surrounded(bordered, IMAGES)))
    torch.testing.assert_close(bordered(IMAGES), expected, rtol=1e-5, atol=1e-5)
    F.cross_entropy(bordered(IMAGES), LABELS).backward()
    assert bordered.encoder.border.sides.grad.abs().max() > 0


def test_lora_updates_the_mlps_where_there_is_no_attention():
    model = adapted("ConvNeXt-V2, 1x1 convolutions", "lora")
    wrapped = {name for name, module in model.encoder.added().items() if hasattr(module, "down")}
    assert wrapped == {path for stage in model.encoder.stages for path in stage.matrices("fc1", "fc2")}
    assert {name.rpartition(".")[2] for name in model.trained() if ".up." in name} == {"fc1", "fc2"}


COMPILED = {"Swin": "vpt_shallow", "Swin-V2": "vpt_deep", "ConvNeXt-V2, 1x1 convolutions": "adapter_houlsby"}
FEW_LAYERS = {
    "Swin": {"depths": (1, 1), "num_heads": (1, 2)},
    "Swin-V2": {"depths": (2,), "num_heads": (1,)},
    "ConvNeXt-V2, 1x1 convolutions": {"depths": (1, 1, 1, 1)},
}


@pytest.mark.parametrize("variant", COMPILED)
def test_compiling_changes_nothing(variant):
    """A stage that is merged to the next, and one of a window and a shifted one."""
    model = adapted_to(small(variant, **FEW_LAYERS[variant]), COMPILED[variant]).eval()
    torch.testing.assert_close(torch.compile(model, backend="aot_eager")(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", COMPILED)
def test_lower_precision_computes_nearly_the_same(variant):
    model = adapted(variant, COMPILED[variant]).eval()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(IMAGES)
    torch.testing.assert_close(logits, model(IMAGES), rtol=0, atol=0.02)


def test_a_border_keeps_frozen_convolutions_in_evaluation_and_is_never_merged():
    model = adapted("ConvNeXt", "vpt_shallow", location="pad").train()
    assert not any(module.training for module in model.encoder.vit.modules())
    assert model.encoder.border.training
    assert model.frozen is None  # nothing of such an image can be stored
    with pytest.raises(ValueError, match="border: no weight"), peft_vision.merged(model):
        pass


@pytest.mark.parametrize("variant", ["Swin", "Swin-V2", "ConvNeXt", "ConvNeXt-V2, 1x1 convolutions", "distilled DeiT"])
def test_a_merged_model_with_its_head_is_timms(variant):
    model = adapted(variant, "lora")
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    F.cross_entropy(model(IMAGES), LABELS).backward()
    optimizer.step()
    model.eval()
    plain = small(variant)
    plain.reset_classifier(4)
    plain.load_state_dict(timm_state(model))
    torch.testing.assert_close(plain.eval()(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-4)


GRIDS = ("Swin", "Swin-V2", "Swin, windows of 3 that do not tile", "ConvNeXt", "ConvNeXt-V2, 1x1 convolutions")


@pytest.mark.parametrize("variant", GRIDS)
@pytest.mark.parametrize("depth", range(6))
def test_the_shape_of_stored_tokens_is_known_before_they_are_made(variant, depth):
    encoder = Encoder(small(variant).requires_grad_(False)).eval()
    depth = min(depth, len(encoder.layers))
    seen = encoder.observe(IMAGES, {"tokens"}, depth=depth)
    assert seen.tokens.shape[1:] == encoder.trunk.token_shape(depth, (32, 32))
    features = encoder.resume(seen.tokens, {"features"}, depth=depth).features
    torch.testing.assert_close(features, encoder(IMAGES))


@pytest.mark.parametrize("variant", GRIDS)
def test_what_is_merged_belongs_to_the_layer_behind_it(variant):
    """Partial tuning of the first layer of a group trains what halves its grid, and leaves alone what is before."""
    model = small(variant)
    encoder = Encoder(model.requires_grad_(False))
    first = next(index for index, stage in enumerate(encoder.stages) if stage.before)
    partial = adapted(variant, "full", layers=[first])
    trained = {name.removeprefix("encoder.vit.").rpartition(".blocks")[0] for name in partial.trained()}
    groups = "layers" if variant in SWIN else "stages"
    assert f"{groups}.1" in trained
    assert {name for name in partial.trained() if ".downsample." in name}
    assert partial.depth == first
    seen = partial.observe(IMAGES)
    torch.testing.assert_close(partial.eval()(seen), partial(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", GRIDS)
def test_head2toe_reads_every_layer_of_every_width(variant):
    model = adapted(variant, "head2toe")
    seen = model.encoder.observe(IMAGES, {"intermediates"})
    widths = [tap.width for stage in model.encoder.stages for tap in stage.taps]
    assert seen.intermediates.shape[1] == model.encoder.observed_shapes()["intermediates"][0] > sum(widths)


RECOMPUTED = {"vpt_deep": SWIN, "vpt_shallow": SWIN, "pad": ("ConvNeXt",), "adapter_houlsby": ("Swin", *CONVNEXT)}


@pytest.mark.parametrize(
    ("variant", "method"), [(variant, method) for method, variants in RECOMPUTED.items() for variant in variants]
)
def test_checkpointing_changes_no_gradient(variant, method):
    assert_checkpointing_changes_no_gradient(adapted(variant, method), IMAGES)


BAD = {
    "a query in windows": ("Swin", "vqt", {}, "swin_tiny.* has windows, not one context"),
    "a query in convolutions": ("ConvNeXt", "vqt", {}, "convnext_tiny is convolutional, .*head2toe"),
    "prompts without tokens": ("ConvNeXt", "vpt_shallow", {}, "no tokens to append to; method.location=pad"),
    "a matrix that is not there": ("ConvNeXt", "lora", {"targets": ["q"]}, "layer 0 has no q; it has fc1, fc2"),
    "a layer that is not there": ("Swin", "lora", {"layers": [7]}, "has 5 layers, 0 to 4"),
    "one factor for all widths": ("Swin", "fact_tt", {}, "one width, and those chosen have 16 and 32 and 64"),
    "a deep border": ("ConvNeXt", "vpt_deep", {"location": "pad"}, "set method.deep=false"),
    "a border in layers": ("Swin", "vpt_shallow", {"location": "pad", "layers": "last-1"}, "method.layers=all"),
    "a border that is projected": ("Swin", "vpt_shallow", {"location": "pad", "projection": 8}, "projection=null"),
    "a border that does not tile": (
        "ViT",
        "vpt_shallow",
        {"location": "pad", "num_prompts": 6},
        "8 px patches.*; of the widths near it, 4 and 8 and 12 fit",
    ),
    "a class token is pooled": ("ViT", "vpt_deep", {"pool_prompts": True}, "pools its class token"),
    "pooled prompts that are gone": (
        "Swin",
        "vpt_deep",
        {"pool_prompts": True, "layers": "first-2"},
        "no prompts reach",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_said_in_a_line(case):
    variant, method, options, message = BAD[case]
    if variant in CONVNEXT and method == "vqt":
        options = {}
    with pytest.raises(ConfigError, match=message) as error:
        adapted(variant, method, **options)
    assert "\n" not in str(error.value)


def test_a_picture_of_which_nothing_would_be_left_is_refused():
    model = small("ConvNeXt")
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 24, 24)}
    with pytest.raises(ConfigError, match=r"convnext_tiny takes no pictures of 24 px: .* 32 px or more"):
        peft_vision.adapt(model, method="linear", num_classes=4)


def test_windows_that_differ_from_picture_to_picture_have_no_prompts():
    """Such a model is one of those that timm's own forward computes."""
    model = small("Swin", dynamic_img_size=True)
    peft_vision.adapt(model, method="linear", num_classes=4)
    with pytest.raises(ConfigError, match=r"cuts windows anew .*dynamic_img_size"):
        peft_vision.adapt(model, method="vpt_deep", num_classes=4)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name in ("ViT", "BEiT", "relative")])
@pytest.mark.parametrize("method", ["vpt_shallow", "vpt_deep"])
def test_average_pooling_reads_prompts_where_they_are_to_be_pooled(variant, method):
    """As tokens of the last layer: the mean over all tokens but the class token, prompts among them."""
    model = peft_vision.adapt(
        small(variant, global_pool="avg"), method=method, num_classes=4, num_prompts=3, pool_prompts=True
    ).eval()
    encoder = model.encoder
    tokens = encoder._through(encoder.trunk.stem(IMAGES), first=0)
    assert tokens.shape[1] == encoder.num_tokens + 3
    vit = encoder.vit
    expected = vit.fc_norm(vit.norm(tokens)[:, vit.num_prefix_tokens :].mean(dim=1))  # one of the norms is nothing
    torch.testing.assert_close(encoder(IMAGES), expected, rtol=1e-5, atol=1e-5)
