import json
import re
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import save_file
from timm.data.model_config import resolve_input_data_config
from timm.layers import resample_abs_pos_embed
from timm.models import adapt_input_conv

from peft_vision.backbone import hub, load, source
from peft_vision.backbone.encoder import Encoder
from peft_vision.backbone.families.match import refuse_unusual, trunk_of
from peft_vision.backbone.load import Backbone
from peft_vision.backbone.outline import shapes_alone
from peft_vision.core.config import CONFIG_DIR, ConfigError, build
from peft_vision.core.identity import PACKAGED
from peft_vision.core.preprocessing import Preprocessing

OPTIONS = sorted((CONFIG_DIR / "backbone").glob("*.yaml"))
VIT_TINY = Path(__file__).parents[3] / "shared/weights/vit_tiny_augreg/model.safetensors"
TINY = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def backbone(**values):
    """A tiny ViT with random weights, but for `values`."""
    usual = {
        "name": "vit_tiny_patch16_224",
        "pretrained": False,
        "checkpoint": None,
        "img_size": 32,
        "in_chans": None,
        "frozen_bits": None,
        "pool": None,
        "normalization": "own",
        "interpolation": "own",
    }
    return Backbone(**{**usual, "drop_path": 0.0, "architecture": TINY, **values})


def refusal(**values):
    with pytest.raises(ConfigError) as caught:
        backbone(**values).check()
    return str(caught.value)


def option(path):
    """The backbone of a file, whose open values are those of some weights."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        node = compose("config", [f"backbone={path.stem}"]).backbone
    if OmegaConf.is_missing(node, "name"):
        node.name = "vit_small_patch14_reg4_dinov2.lvd142m"
    if OmegaConf.is_missing(node, "checkpoint"):
        node.checkpoint = "released.safetensors"
    return build(OmegaConf.to_container(node, resolve=True, throw_on_missing=True), Backbone, "backbone")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, and a hub where nobody listens."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "hub"


def test_the_options_of_the_papers_are_there():
    assert len(OPTIONS) == 30


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: path.stem)
def test_every_option_says_what_it_is_builds_and_passes_its_check(path, tmp_path, monkeypatch):
    """A model of a family on which no method works yet is refused with the reason of the family."""
    assert path.read_text().startswith("# ")
    built = option(path)
    if built.checkpoint is not None:
        monkeypatch.chdir(tmp_path)
        save_file({"w": torch.zeros(1)}, tmp_path / built.checkpoint.removeprefix(PACKAGED))
        monkeypatch.setattr(load, "__file__", str(tmp_path / "load.py"))
    refused = built.outline().refusal
    with nullcontext() if refused is None else pytest.raises(ConfigError, match=re.escape(refused)):
        built.check()
    assert built.pretrained != (built.checkpoint is not None)


@pytest.mark.parametrize("path", [path for path in OPTIONS if path.stem != "vit_micro"], ids=lambda path: path.stem)
def test_every_option_is_the_model_and_the_preprocessing_of_timm(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_file({"w": torch.zeros(1)}, tmp_path / "released.safetensors")
    built = option(path)
    with torch.device("meta"):
        vit = timm.create_model(built.name, num_classes=0, **({"global_pool": built.pool} if built.pool else {}))
    outline, record, shown = built.outline(), vit.pretrained_cfg, built.preprocessing()
    assert (outline.cls, outline.parameters) == (type(vit).__name__, sum(p.numel() for p in vit.parameters()))
    assert (shown.channels, shown.size) == (record["input_size"][0], record["input_size"][-1])
    assert (shown.mean, shown.std) == (record["mean"], record["std"])
    assert (shown.interpolation, shown.crop) == (record["interpolation"], record["crop_pct"])
    assert built.pretrained == bool(record.get("hf_hub_id")) or built.checkpoint


@pytest.mark.parametrize("name", ["vit_small_patch16_224", "swin_tiny_patch4_window7_224", "resnet50"])
def test_of_shapes_alone_a_model_is_built_as_ever_and_nothing_initialises_it(name):
    with torch.device("meta"):
        expected = timm.create_model(name)
    with shapes_alone():
        found = timm.create_model(name)
        kept = torch.full((3,), 7.0, device="cpu").mul_(2)
    assert kept.tolist() == [14.0] * 3
    shapes = [
        {key: (tensor.shape, tensor.dtype, tensor.device) for key, tensor in vit.state_dict().items()}
        for vit in (expected, found)
    ]
    assert shapes[0] == shapes[1]
    assert repr(expected) == repr(found)


def test_vit_micro_has_the_promised_size():
    parameters = sum(p.numel() for p in backbone(**_micro(), checkpoint=None).load().parameters())
    assert 0.5e6 <= parameters <= 1.2e6


def _micro():
    node = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "backbone/vit_micro.yaml"))
    return {key: node[key] for key in ("name", "img_size", "architecture")}


def test_preprocessing_is_that_of_the_weights():
    papers = option(CONFIG_DIR / "backbone/vit_b16_in21k.yaml").preprocessing()
    half = (0.5, 0.5, 0.5)
    assert papers == Preprocessing(224, half, half, "bicubic", 0.9)
    mae = option(CONFIG_DIR / "backbone/vit_b16_mae.yaml").preprocessing()
    assert mae.mean == (0.485, 0.456, 0.406)
    assert option(CONFIG_DIR / "backbone/vit_b14_dinov2.yaml").preprocessing().size == 518


def test_img_size_replaces_only_the_size():
    native = backbone(pretrained=True, img_size=None, architecture={}).preprocessing()
    smaller = backbone(pretrained=True, img_size=96, architecture={}).preprocessing()
    assert (native.size, smaller.size) == (224, 96)
    assert (native.mean, native.crop, native.interpolation) == (smaller.mean, smaller.crop, smaller.interpolation)


def test_random_weights_see_whole_images():
    assert backbone().preprocessing().crop == 1.0


def test_preprocessing_recorded_in_the_file_wins(tmp_path):
    recorded = Preprocessing(32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear", 1.0)
    path = tmp_path / "ours.safetensors"
    metadata = {"preprocessing": json.dumps(recorded.record())}
    save_file(backbone().load().state_dict(), path, metadata=metadata)
    from_checkpoint = backbone(checkpoint=str(path), img_size=None)
    assert from_checkpoint.preprocessing() == recorded
    assert from_checkpoint.load().patch_embed.img_size == (32, 32)
    assert backbone(checkpoint=str(path), img_size=48).preprocessing().size == 48


def test_load_gives_pooled_fp32_features_without_a_head():
    vit = backbone(drop_path=0.2).load()
    assert vit(torch.zeros(2, 3, 32, 32)).shape == (2, 32)
    assert isinstance(vit.head, torch.nn.Identity)
    assert vit.training
    assert vit.blocks[-1].drop_path1.drop_prob == pytest.approx(0.2)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in vit.parameters())


@pytest.mark.parametrize("pool", ["token", "avg", "max", "avgmax", "map"])
def test_pool_is_timms(pool):
    vit = backbone(pool=pool).load()
    assert vit.global_pool == pool
    assert vit(torch.zeros(1, 3, 32, 32)).shape == (1, 32)


def test_relative_checkpoint_is_looked_up_in_the_working_folder(tmp_path, monkeypatch):
    saved = backbone().load()
    save_file(saved.state_dict(), tmp_path / "w.safetensors")
    monkeypatch.chdir(tmp_path)
    loaded = backbone(checkpoint="w.safetensors").load()
    assert torch.equal(loaded.pos_embed, saved.pos_embed)


def test_checkpoint_comes_before_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "hub_file", lambda *_: pytest.fail("asked the hub"))
    saved = backbone().load()
    save_file(saved.state_dict(), tmp_path / "w.safetensors")
    loaded = backbone(checkpoint=str(tmp_path / "w.safetensors"), pretrained=True).load()
    assert torch.equal(loaded.pos_embed, saved.pos_embed)


def test_checking_takes_no_memory_and_draws_no_random_numbers():
    before = torch.get_rng_state()
    backbone(name="vit_huge_patch14_224.orig_in21k", pretrained=True, img_size=224, architecture={}).check()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "architecture",
    [
        {"qk_norm": True, "init_values": 0.1},
        {"reg_tokens": 2, "no_embed_class": True},
        {"pre_norm": True, "scale_attn_norm": True, "scale_mlp_norm": True},
        {"fc_norm": True},
    ],
)
def test_variants_of_the_plain_vit_are_accepted(architecture):
    backbone(architecture={**TINY, **architecture}).check()


@pytest.mark.parametrize(
    ("name", "architecture", "reason"),
    [
        ("naflexvit_base_patch16_gap", {"depth": 1}, "forward"),
        ("vit_base_patch16_rpn_224", {"depth": 1}, "its blocks are ResPostBlock"),
        ("vit_base_patch16_xp_224", {"depth": 1}, "its blocks are ParallelScalingBlock"),
        ("vit_tiny_r_s16_p8_224", {"depth": 1}, "it embeds patches with HybridEmbed"),
        ("vit_base_patch16_radio_v3", {"depth": 1}, "RADIO"),
        ("vit_tiny_patch16_224", {"depth": 1, "attn_layer": "diff"}, "its attention is DiffAttention"),
        ("vit_tiny_patch16_224", {"depth": 1, "patch_drop_rate": 0.1}, "it drops patches"),
    ],
)
def test_what_is_no_plain_vit_takes_no_tokens_for_the_reason(name, architecture, reason):
    with shapes_alone():
        encoder = Encoder(timm.create_model(name, num_classes=0, **architecture))
    assert encoder.trunk.family == "any"
    with pytest.raises(ConfigError, match=f"it needs tokens .*; {name} .*{reason}"):
        encoder.require({"prompts"})


def test_a_model_without_a_family_is_refused_before_weights_are_loaded(monkeypatch):
    """timm has none; one of a later version may be."""
    outline = load.outline_of("vit_tiny_patch16_224", "{}")
    monkeypatch.setattr(load, "outline_of", lambda *_: replace(outline, refusal="no family matches it"))
    with pytest.raises(ConfigError, match=r"^no family matches it$"):
        backbone().check()


def test_a_users_own_model_is_judged_by_the_same_rule():
    class Unusual(timm.models.vision_transformer.VisionTransformer):
        pass

    assert trunk_of(Unusual(depth=1, embed_dim=32, num_heads=2)).family == "any"
    with pytest.raises(ConfigError, match="no family matches Linear: timm's Linear has no forward_features"):
        refuse_unusual(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"name": "vit_bse_patch16_224"},
            "backbone.name: timm has no model 'vit_bse_patch16_224'; did you mean vit_base_patch16_224?",
        ),
        (
            {"name": "vit_base_patch16_224_in21k"},
            "backbone.name: vit_base_patch16_224_in21k is an old name that hides which weights it means; "
            "write vit_base_patch16_224.augreg_in21k or vit_base_patch16_224.orig_in21k",
        ),
        (
            {"name": "vit_base_patch16_224_dino"},
            "backbone.name: vit_base_patch16_224_dino is an old name that hides which weights it means; "
            "did you mean vit_base_patch16_224.dino?",
        ),
        (
            {"name": "vit_giant_patch14_224", "pretrained": True},
            "backbone.pretrained: there are no weights for vit_giant_patch14_224 (it has none at all); "
            "backbone.checkpoint=FILE reads yours, backbone.pretrained=false begins with random ones",
        ),
        (
            {"img_size": 30},
            "backbone.img_size: 30 is no multiple of the 8 px patches of vit_tiny_patch16_224; 24 and 32 are",
        ),
        (
            {"architecture": {"dephts": 2}},
            "backbone.architecture.dephts: unknown to timm's VisionTransformer; did you mean depth?",
        ),
        (
            {"architecture": {"global_pool": "avg"}},
            "backbone.architecture.global_pool: does not go here, it is backbone.pool",
        ),
    ],
)
def test_bad_values_are_refused_in_one_line(values, message):
    assert refusal(**values) == message


def test_what_a_models_own_size_has_beyond_its_last_patch_is_left_out_as_timm_does():
    own = {"name": "vit_so400m_patch14_siglip_384.webli", "img_size": None, "architecture": {}, "pretrained": True}
    backbone(**own).check()  # 384 is 27 patches of 14 px and 6 px more
    assert "384 is no multiple of the 14 px patches" in refusal(**{**own, "img_size": 384})
    assert "384 is no multiple of the 14 px patches" in refusal(**{**own, "architecture": {"depth": 2}})


def test_unknown_tag_is_answered_with_the_tags_there_are():
    known = timm.list_pretrained("vit_huge_patch14_224.*")
    assert refusal(name="vit_huge_patch14_224.nonsense") == (
        f"backbone.name: timm has no weights 'nonsense' of vit_huge_patch14_224; it has {', '.join(known)}"
    )


def test_missing_checkpoint_is_named_by_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refusal(checkpoint="none.pth") == f"backbone.checkpoint: no file {tmp_path / 'none.pth'}"
    inside = Path(load.__file__).parent / "none.safetensors"
    message = refusal(checkpoint="package:none.safetensors")
    assert message == f"backbone.checkpoint: this installation has no file {inside}"


def test_impossible_architecture_is_refused_with_timms_reason():
    message = refusal(architecture={**TINY, "num_heads": 3})
    assert message.startswith("backbone: timm cannot build vit_tiny_patch16_224 with ")
    assert "num_heads" in message
    assert "class token" in refusal(pool="token", architecture={**TINY, "class_token": False})


@pytest.mark.parametrize(
    "fault",
    [{"drop_path": 1.0}, {"drop_path": -0.1}, {"img_size": 0}, {"pool": "mean"}, {"pretrained": "often"}],
)
def test_values_out_of_range_do_not_build(fault):
    values = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "backbone/vit_micro.yaml"))
    with pytest.raises(ConfigError, match=rf"^backbone\.{next(iter(fault))}: got "):
        build({**values, **fault}, Backbone, "backbone")


def test_cached_weights_need_no_network(cache, monkeypatch):
    monkeypatch.setattr(hub, "unreachable", lambda _: pytest.fail("asked the network"))
    source = timm.create_model("vit_tiny_patch16_224.augreg_in21k", img_size=32, **TINY)
    repository = cache / "models--timm--vit_tiny_patch16_224.augreg_in21k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("abc")
    (repository / "snapshots/abc").mkdir(parents=True)
    save_file(source.state_dict(), repository / "snapshots/abc/model.safetensors")
    vit = backbone(name="vit_tiny_patch16_224.augreg_in21k", pretrained=True).load()
    assert torch.equal(vit.blocks[1].attn.qkv.weight, source.blocks[1].attn.qkv.weight)


def test_no_network_is_said_soon_with_what_where_and_the_ways_out(cache):
    started = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        backbone(name="vit_tiny_patch16_224.augreg_in21k", pretrained=True).load()
    assert time.monotonic() - started < 5
    first, second = str(caught.value).splitlines()
    assert "cannot get the weights vit_tiny_patch16_224.augreg_in21k" in first
    assert str(cache) in first
    assert "http://127.0.0.1:9" in first
    assert "refused" in first
    assert "backbone.checkpoint=FILE" in second
    assert "experiment=demo" in second


def test_a_network_that_swallows_packets_is_not_waited_for(cache, monkeypatch):
    monkeypatch.setattr(hub, "PROBE_SECONDS", -0.9)
    monkeypatch.setattr(hub, "_probe", lambda _: time.sleep(0.5))
    assert "no answer" in hub.unreachable("http://192.0.2.1")


def test_offline_mode_is_named_as_the_obstacle(cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.unreachable("http://127.0.0.1:9") == "HF_HUB_OFFLINE is set"


def test_download_takes_the_first_file_that_the_hub_has(cache, monkeypatch, tmp_path):
    def download(repository, file, revision):
        if file == "model.safetensors":
            raise hub.errors.EntryNotFoundError("404")
        return str(tmp_path / file)

    monkeypatch.setattr(hub, "unreachable", lambda _: None)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert hub.hub_file("some.weights", "timm/some.weights") == tmp_path / "pytorch_model.bin"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (hub.errors.LocalEntryNotFoundError("gone"), "broke off"),
        (OSError("No space left on device\nat all"), "failed: No space left on device"),
        (hub.errors.EntryNotFoundError("404"), "has neither model.safetensors nor pytorch_model.bin"),
    ],
)
def test_failed_download_is_one_clear_refusal(cache, monkeypatch, error, reason):
    def download(repository, file, revision):
        raise error

    monkeypatch.setattr(hub, "unreachable", lambda _: None)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    with pytest.raises(ConfigError, match=reason):
        hub.hub_file("some.weights", "timm/some.weights")


@pytest.mark.skipif(not VIT_TINY.is_file(), reason=f"no real weights at {VIT_TINY}")
def test_real_vit_tiny_at_96_px_equals_timms_own():
    real = backbone(checkpoint=str(VIT_TINY), img_size=96, architecture={})
    vit = real.load().eval()
    reference = timm.create_model(
        "vit_tiny_patch16_224",
        pretrained=True,
        num_classes=0,
        img_size=96,
        pretrained_cfg_overlay={"file": str(VIT_TINY)},
    ).eval()
    images = torch.randn(2, 3, 96, 96)
    assert torch.equal(vit(images), reference(images))
    original = timm.create_model("vit_tiny_patch16_224", checkpoint_path=str(VIT_TINY))
    expected = resample_abs_pos_embed(original.pos_embed, new_size=[6, 6], num_prefix_tokens=1)
    assert torch.equal(vit.pos_embed, expected)


def test_a_protocol_may_normalise_and_resize_otherwise_than_the_weights():
    published = backbone(name="vit_base_patch16_224.orig_in21k").preprocessing()
    other = backbone(name="vit_base_patch16_224.orig_in21k", normalization="imagenet", interpolation="bilinear")
    assert (published.mean, published.std, published.interpolation) == ((0.5,) * 3, (0.5,) * 3, "bicubic")
    assert other.preprocessing() == replace(
        published, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), interpolation="bilinear"
    )
    bare = backbone(normalization="none").preprocessing()
    assert (bare.mean, bare.std) == ((0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize("in_chans", [1, 2, 4])
def test_other_channels_have_timms_first_weights_and_normalisation(tmp_path, in_chans):
    source = backbone().load()
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    values = {"name": "vit_tiny_patch16_224.augreg_in21k", "checkpoint": str(tmp_path / "w.safetensors")}
    built = backbone(**values, in_chans=in_chans)
    vit = built.load()
    expected = adapt_input_conv(in_chans, source.patch_embed.proj.weight.detach())
    assert torch.equal(vit.patch_embed.proj.weight, expected)
    resolved = resolve_input_data_config(vit)
    shown = built.preprocessing()
    assert (shown.mean, shown.std) == (resolved["mean"], resolved["std"])
    assert vit(torch.zeros(1, in_chans, 32, 32)).shape == (1, 32)


def test_normalisation_of_a_protocol_is_spread_over_the_channels():
    assert backbone(in_chans=1, normalization="imagenet").preprocessing().mean == pytest.approx((0.449,))
    assert backbone(in_chans=5, normalization="none").preprocessing().std == (1.0,) * 5


def test_channels_that_a_file_of_ours_records_are_those_of_the_model(tmp_path):
    recorded = Preprocessing(32, (0.1,), (0.4,), "bilinear", 1.0)
    saved = backbone(in_chans=1).load()
    metadata = {"preprocessing": json.dumps(recorded.record())}
    save_file(saved.state_dict(), tmp_path / "ours.safetensors", metadata=metadata)
    built = backbone(checkpoint=str(tmp_path / "ours.safetensors"))
    assert built.preprocessing() == recorded
    assert torch.equal(built.load().patch_embed.proj.weight, saved.patch_embed.proj.weight)
