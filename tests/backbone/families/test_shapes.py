"""A model that the command loads for pictures of another height than width is timm's own model at that size."""

import json
import warnings

import pytest
import timm
import torch
from safetensors.torch import save_file
from variants import VARIANTS

from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.families.match import trunk_of
from peft_vision.backbone.load import Backbone
from peft_vision.core.config import ConfigError, build
from peft_vision.core.identity import hashed
from peft_vision.core.preprocessing import Preprocessing

OF_TOKENS = {  # family: the variant of it, and height and width of the pictures
    "vit": ("ViT", (40, 24)),
    "distilled_vit": ("distilled DeiT", (24, 40)),
    "eva": ("DINOv3", (40, 24)),
    "eva with positions": ("EVA-02", (24, 40)),
    "eva with mixed rotations": ("mixed rotations", (40, 24)),
    "beit": ("BEiT", (40, 24)),
    "beit with one table": ("BEiT, shared table", (24, 40)),
    "relative_vit": ("relative", (40, 24)),
    "swin": ("Swin", (40, 24)),
    "swin with windows of 3": ("Swin, windows of 3 that do not tile", (24, 52)),
    "swin_v2": ("Swin-V2", (40, 24)),
    "convnext": ("ConvNeXt", (50, 36)),
}
OTHERS = {
    "ResNet": ("resnet18", {"layers": (1, 1, 1, 1), "channels": (8, 16, 16, 32)}, (50, 36)),
    "MaxViT": ("test_maxvit", {"img_size": 64}, (64, 96)),
}
HIERA = {"img_size": (64, 64), "embed_dim": 8, "stages": (1, 1, 1, 1), "num_heads": 1}
NOT_RESAMPLED = {"CLIP's ResNet": ("resnet50_clip", {"img_size": 64}), "Hiera": ("hiera_tiny_224", HIERA)}
MODELS = {family: (*VARIANTS[variant], size) for family, (variant, size) in OF_TOKENS.items()} | OTHERS


def backbone(name: str, architecture: dict, **values) -> Backbone:
    """A backbone with random weights, but for `values`; what `architecture` says of sizes and pooling is left out."""
    kept = {key: value for key, value in architecture.items() if key not in ("img_size", "drop_path_rate")}
    usual = {
        "pretrained": False,
        "checkpoint": None,
        "img_size": None,
        "in_chans": None,
        "frozen_bits": None,
        "drop_path": 0.0,
    }
    usual |= {"normalization": "own", "interpolation": "own", "pool": kept.pop("global_pool", None)}
    return Backbone(name=name, architecture=kept, **{**usual, **values})


def saved_weights(name: str, architecture: dict, path) -> None:
    """Write random weights of the model for its own squares, none of them at a constant."""
    torch.manual_seed(5)
    model = timm.create_model(name, num_classes=0, **architecture)
    for parameter in model.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    save_file(model.state_dict(), path)


@pytest.mark.parametrize("family", MODELS)
def test_the_loaded_model_and_its_features_are_timms_at_that_size(family, tmp_path):
    name, architecture, size = MODELS[family]
    path = tmp_path / "weights.safetensors"
    saved_weights(name, architecture, path)
    ours = backbone(name, architecture, checkpoint=str(path), img_size=list(size))
    ours.check()
    found = ours.load()
    arguments = {**architecture, "drop_path_rate": 0.0}
    if "img_size" in architecture:
        arguments["img_size"] = size
    overlay = {"file": str(path), "num_classes": 0}
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of how timm resamples tables
        timms = timm.create_model(name, num_classes=0, pretrained=True, pretrained_cfg_overlay=overlay, **arguments)
    held = timms.state_dict()
    assert held.keys() == found.state_dict().keys()
    assert all(torch.equal(tensor, held[key]) for key, tensor in found.state_dict().items())
    images = torch.randn(2, *ours.preprocessing().shape, generator=torch.Generator().manual_seed(0))
    assert images.shape[2:] == size
    encoder = Encoder(found.eval(), ours.preprocessing())
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), timms.eval()(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", NOT_RESAMPLED)
def test_positions_that_timm_does_not_resample_are_random_or_refused(model, tmp_path):
    name, architecture = NOT_RESAMPLED[model]
    made = backbone(name, architecture, img_size=(64, 96))
    found = made.load()
    timms = timm.create_model(name, num_classes=0, **{**architecture, "img_size": (64, 96)})
    timms.load_state_dict(found.state_dict())
    images = torch.randn(2, *made.preprocessing().shape, generator=torch.Generator().manual_seed(0))
    encoder = Encoder(found.eval(), made.preprocessing())
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), timms.eval()(images), rtol=1e-5, atol=1e-5)
    saved_weights(name, architecture, tmp_path / "weights.safetensors")
    with pytest.raises(ConfigError, match="timm does not resample the positions of this class"):
        backbone(name, architecture, img_size=(64, 96), checkpoint=str(tmp_path / "weights.safetensors")).load()


@pytest.mark.parametrize("family", ["vit", "eva", "swin", "convnext", "MaxViT"])
def test_height_is_not_taken_for_width(family):
    name, architecture, (height, width) = MODELS[family]
    made = backbone(name, architecture, img_size=(height, width))
    assert made.preprocessing().sides == (height, width)
    with torch.device("meta"):
        trunk = trunk_of(made.of_shapes())
    assert trunk.image_size in (None, (height, width))
    grids = [stage.grid for stage in trunk.stages if stage.grid is not None]
    assert all((rows > columns) == (height > width) for rows, columns in grids)


def test_a_square_in_a_list_is_the_square():
    values = {"name": "vit_tiny_patch16_224", "architecture": {"patch_size": 8}}
    side, sides, other = (backbone(**values, img_size=size) for size in (32, [32, 32], [32, 24]))
    assert side == sides
    assert (sides.img_size, sides.preprocessing().size) == (32, 32)
    assert hashed(side) == hashed(sides) != hashed(other)
    assert hashed(side)["img_size"] == 32
    assert hashed(other)["img_size"] == [32, 24]


def test_preprocessing_is_recorded_and_restored():
    common = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic", "crop": 1.0}
    for size, recorded in ((32, 32), ((32, 24), [32, 24])):
        made = Preprocessing(size=size, **common)
        record = json.loads(json.dumps(made.record()))
        assert record["size"] == recorded
        assert Preprocessing.restore(record) == made
    assert Preprocessing.restore({**record, "size": [32, 32]}).size == 32
    assert str(made).startswith("32 x 24 px, bicubic")
    for faulty in ([32], [32, 0], [32, None], [8, 9000], "32x24", [32, 24, 3]):
        with pytest.raises(ValueError, match="preprocessing: size"):
            Preprocessing.restore({**record, "size": faulty})


def test_images_of_weights_that_are_no_squares_are_none():
    """Sapiens-2 was trained on upright pictures of people."""
    shown = backbone("vit_base_patch16_sapiens2.fb", {}).preprocessing()
    assert shown.sides == (1024, 768)


BAD = {
    "three sides": ([32, 24, 3], r"got \[32, 24, 3\], should be the side of a square in pixels, or \[height, width\]"),
    "one side": ([32], r"or \[height, width\]"),
    "a missing side": ([32, None], r"or \[height, width\]"),
    "no height": ([0, 32], r"backbone.img_size: got 0, should be greater than 0"),
    "words": ("32x24", r"backbone.img_size: got '32x24'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_size_is_said_in_a_line(case):
    size, message = BAD[case]
    values = backbone("vit_tiny_patch16_224", {})
    node = {**vars(values), "_target_": "peft_vision.backbone.load.Backbone", "img_size": size}
    node = {key: value for key, value in node.items() if not key.startswith("__")}
    with pytest.raises(ConfigError, match=message) as error:
        build(node, Backbone, "backbone")
    assert "\n" not in str(error.value)


MISFITS = {
    "patches": ("vit_tiny_patch16_224", [48, 40], r"\[48, 40\] is no multiple of the 16 px patches .*; \[48, 32\] and"),
    "both sides": ("vit_tiny_patch16_224", [50, 40], r"patches of vit_tiny_patch16_224; \[48, 32\] and \[64, 48\] are"),
    "the side of a square": ("vit_tiny_patch16_224", 50, r"img_size: 50 is no multiple .*; 48 and 64 are"),
    "less than a patch": ("vit_tiny_patch16_224", 5, r"img_size: 5 is no multiple .*; 16 is$"),
    "no token is left": (
        "convnext_atto",
        [64, 24],
        r"img_size: convnext_atto takes no pictures of 64 x 24 px: .* 32 px",
    ),
    "no token of a square": ("convnext_atto", 24, r"img_size: convnext_atto takes no pictures of 24 px: .* 32 px"),
    "windows": ("test_maxvit", [64, 40], r"img_size: test_maxvit takes no pictures of 64 x 40 px: "),
    "squares alone": ("nest_tiny_jx", [224, 112], r"with img_size=\(224, 112\).*: Model only handles square inputs"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_patches_and_windows_cannot_tile_is_refused_before_weights_are_read(case):
    name, size, message = MISFITS[case]
    with pytest.raises(ConfigError, match=message) as error:
        backbone(name, {}, img_size=size).check()
    assert "\n" not in str(error.value)
