"""Models by name: pages of the hub and folders with timm's config.json and weights, in miniature, without a network."""

import json
from pathlib import Path

import httpx
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from timm.layers import SwiGLUPacked

from peft_vision.backbone import hub, source
from peft_vision.backbone.load import Backbone
from peft_vision.backbone.source import find
from peft_vision.core.config import ConfigError
from peft_vision.core.identity import hashed

SIZES = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
REGISTERS = {**SIZES, "reg_tokens": 2, "init_values": 1e-5, "mlp_ratio": 4.0}
ARCHITECTURE = "vit_tiny_patch16_224"


def backbone(name, **values):
    usual = {
        "pretrained": True,
        "checkpoint": None,
        "img_size": None,
        "in_chans": None,
        "frozen_bits": None,
        "pool": None,
    }
    usual |= {"drop_path": 0.0, "normalization": "own", "interpolation": "own", "architecture": {}}
    return Backbone(name=name, **{**usual, **values})


def config(model_args, **pretrained):
    """A config.json as timm's save_for_hf writes it."""
    own = {"input_size": [3, 32, 32], "fixed_input_size": True, "interpolation": "bicubic", "crop_pct": 0.9}
    own |= {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "num_classes": 0, "first_conv": "patch_embed.proj"}
    own |= {"license": "cc-by-nc-nd-4.0", "classifier": "head", **pretrained}
    return {"architecture": ARCHITECTURE, "num_classes": 0, "model_args": model_args, "pretrained_cfg": own}


def written(folder, held, weights="model.safetensors", **built):
    """Write a page's files to `folder`; the model that they are of."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(held))
    size = held["pretrained_cfg"]["input_size"]
    arguments = {**held["model_args"], "img_size": size[1], "in_chans": size[0], "num_classes": 0, **built}
    vit = timm.create_model(ARCHITECTURE, **arguments)
    torch.nn.init.normal_(vit.blocks[-1].norm2.weight)
    if weights.endswith(".safetensors"):
        save_file(vit.state_dict(), folder / weights)
    else:
        torch.save(vit.state_dict(), folder / weights)
    return vit.eval()


def cached(cache, repository, *args, **options):
    """Put a page into the hub's cache, as huggingface_hub lays it out."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("abc")
    return written(folder / "snapshots/abc", *args, **options)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub; asking the network fails the test."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "unreachable", lambda _: pytest.fail("asked the network"))
    return tmp_path / "hub"


@pytest.fixture
def page(cache, monkeypatch):
    """A hub that answers every download with the error, or the bytes, of this dict; the list of what was asked."""
    asked, answers = [], {}

    def download(repository, file, revision):
        asked.append((repository, file, revision))
        answer = answers.get(file, answers.get("*"))
        if isinstance(answer, Exception):
            raise answer
        path = cache / "models--owner--name/snapshots/abc" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        (cache / "models--owner--name/refs").mkdir(exist_ok=True)
        (cache / "models--owner--name/refs/main").write_text("abc")
        path.write_bytes(answer)
        return str(path)

    monkeypatch.setattr(hub, "unreachable", lambda _: None)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    return asked, answers


def http_error(kind, code=404):
    response = httpx.Response(code, request=httpx.Request("GET", "https://huggingface.co/owner/name"))
    return kind("made up", response=response)


def refusal(name, **values):
    with pytest.raises(ConfigError) as caught:
        backbone(name, **values).check()
    return str(caught.value)


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin", "weights.pth"])
def test_folder_is_the_model_that_timm_makes_of_it(tmp_path, weights):
    vit = written(tmp_path / "page", config(REGISTERS), weights)
    name = f"local-dir:{tmp_path / 'page'}"
    images = torch.randn(2, 3, 32, 32)
    loaded = backbone(name).load().eval()
    assert torch.equal(loaded(images), timm.create_model(name, pretrained=True, num_classes=0).eval()(images))
    assert torch.equal(loaded(images), vit(images))
    shown = backbone(name).preprocessing()
    assert (shown.size, shown.mean, shown.crop) == (32, (0.5, 0.4, 0.3), 0.9)


def test_page_of_the_hub_is_read_from_the_cache_without_a_request(cache):
    vit = cached(cache, "owner/name", config(REGISTERS))
    for name in ("hf-hub:owner/name", "hf_hub:owner/name", "hf-hub:owner/name@main"):
        loaded = backbone(name).load()
        assert torch.equal(loaded.blocks[1].ls1.gamma, vit.blocks[1].ls1.gamma)
        assert torch.equal(loaded.reg_token, vit.reg_token)


def test_model_with_a_gated_mlp_and_registers_loads_from_its_page_alone(cache):
    args = {**REGISTERS, "mlp_ratio": 5.3375, "global_pool": "", "dynamic_img_size": True}
    gated = {"mlp_layer": SwiGLUPacked, "act_layer": "silu"}
    vit = cached(cache, "paige-ai/Virchow2", config(args), **gated)
    loaded = backbone("hf-hub:paige-ai/Virchow2").load().eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.allclose(loaded(images), vit(images)[:, 0], atol=1e-6)
    assert type(loaded.blocks[0].mlp).__name__ == "GluMlp"


def test_config_that_names_its_layers_loads_alone_and_one_that_does_not_is_told_which(tmp_path):
    gated = {"mlp_layer": SwiGLUPacked, "act_layer": "silu"}
    named = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}
    vit = written(tmp_path / "silent", config(SIZES), **gated)
    said = config({**SIZES, **named})
    written(tmp_path / "said", said, **gated)
    save_file(vit.state_dict(), tmp_path / "said/model.safetensors")
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(backbone(f"local-dir:{tmp_path / 'said'}").load().eval()(images), vit(images))
    silent = f"local-dir:{tmp_path / 'silent'}"
    with pytest.raises(ConfigError, match=r"architecture=\{mlp_layer: SwiGLUPacked, act_layer: silu\} may fit"):
        backbone(silent).load()
    assert torch.equal(backbone(silent, architecture=named).load().eval()(images), vit(images))
    assert "timm.layers has no 'SwiGLUPackd'" in refusal(silent, architecture={"mlp_layer": "SwiGLUPackd"})


def test_weights_are_downloaded_once_and_the_config_before_them(cache, page, tmp_path):
    asked, answers = page
    written(tmp_path / "made", config(SIZES))
    files = ("config.json", "model.safetensors")
    answers.update({name: (tmp_path / "made" / name).read_bytes() for name in files})
    backbone("hf-hub:owner/name").check()
    assert asked == [("owner/name", "config.json", None)]
    for _ in range(2):
        backbone("hf-hub:owner/name").load()
    assert asked == [("owner/name", name, None) for name in files]


def test_random_weights_of_a_page_need_its_config_only(cache, page, tmp_path):
    asked, answers = page
    written(tmp_path / "made", config(SIZES))
    answers["config.json"] = (tmp_path / "made/config.json").read_bytes()
    backbone("hf-hub:owner/name", pretrained=False).load()
    assert asked == [("owner/name", "config.json", None)]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            http_error(hub.errors.GatedRepoError, 403),
            "owner/name is gated; accept its licence on that page, then log in",
        ),
        (http_error(hub.errors.RepositoryNotFoundError), "the hub has no owner/name, or it is private"),
        (http_error(hub.errors.RevisionNotFoundError), "has no revision 'v9'"),
        (hub.errors.EntryNotFoundError("404"), "has no config.json"),
    ],
)
def test_page_that_cannot_be_had_is_said_in_a_line(page, error, said):
    page[1]["*"] = error
    first = refusal("hf-hub:owner/name@v9").splitlines()[0]
    assert first.startswith("backbone: cannot get ")
    assert said in first


def test_without_a_network_a_page_is_refused_with_the_ways_out(cache, monkeypatch):
    monkeypatch.setattr(hub, "unreachable", lambda _: "no route to host")
    message = refusal("hf-hub:owner/name")
    assert "no network to" in message
    assert "no route to host" in message


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "owner/name",
            "backbone.name: 'owner/name' is no name in timm; write hf-hub:owner/name for a model of the hub",
        ),
        ("hf-hub:name/of/three", "backbone.name: 'name/of/three' is not owner/name, as the hub names a model"),
        ("ftp:name", "backbone.name: 'ftp:name' is no name in timm"),
        ("local-dir:nowhere", "backbone.name: no folder "),
    ],
)
def test_name_that_is_none_is_refused(cache, name, said):
    assert refusal(name).startswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no JSON"),
        ("[]", "no config.json of timm: it names no architecture"),
        ('{"architectures": ["ViTModel"]}', "is of another library, for ['ViTModel']"),
        ('{"architecture": "vit_tiny_patch16_224", "pretrained_cfg": 3}', "is no config.json of timm"),
        ('{"architecture": "vit_tiny_patch16_244", "pretrained_cfg": {}}', "no architecture 'vit_tiny_patch16_244'"),
        ('{"architecture": "brand_new", "pretrained_cfg": {}}', "a newer version of timm may have it"),
        ('{"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {"std": [0, 0, 0]}}', "preprocessing: std"),
        (
            '{"architecture": "vit_tiny_patch16_224", "model_args": {"num_heads": 7}, "pretrained_cfg": {}}',
            "timm cannot build",
        ),
        ('{"architecture": "vit_tiny_patch16_224", "model_args": {"hedas": 7}, "pretrained_cfg": {}}', "timm cannot"),
        ('{"architecture": "vit_tiny_patch16_224", "model_args": {"depth": 7}}', "model_args and no pretrained_cfg"),
        (
            '{"architecture": "vit_tiny_patch16_224", "model_args": [7], "pretrained_cfg": {}}',
            "is no config.json of timm",
        ),
    ],
)
def test_config_that_describes_no_model_of_this_timm_is_refused(tmp_path, text, said):
    (tmp_path / "config.json").write_text(text)
    assert said in refusal(f"local-dir:{tmp_path}", pretrained=False)


def test_config_of_a_newer_timm_with_keys_that_this_one_lacks_is_read(tmp_path):
    written(tmp_path / "page", config(SIZES, quality_of_light=3))
    backbone(f"local-dir:{tmp_path / 'page'}").load()


def test_config_in_the_old_format_is_read(tmp_path):
    written(tmp_path / "page", config({}))
    flat = {"architecture": ARCHITECTURE, **config({})["pretrained_cfg"], "input_size": [3, 32, 32]}
    (tmp_path / "page/config.json").write_text(json.dumps(flat))
    assert backbone(f"local-dir:{tmp_path / 'page'}").load().embed_dim == 192


def test_folder_without_weights_or_config_is_refused(tmp_path):
    assert f"no config.json in {tmp_path}" in refusal(f"local-dir:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps(config(SIZES)))
    assert f"no weights in {tmp_path}" in refusal(f"local-dir:{tmp_path}")
    backbone(f"local-dir:{tmp_path}", pretrained=False).check()


def test_size_that_cannot_be_tiled_is_refused_before_the_weights(tmp_path):
    written(tmp_path / "page", config(SIZES))
    (tmp_path / "page/model.safetensors").write_bytes(b"")
    name = f"local-dir:{tmp_path / 'page'}"
    assert "30 is no multiple of the 8 px patches" in refusal(name, img_size=30)


def test_relative_folder_is_the_same_name_from_everywhere(tmp_path, monkeypatch):
    written(tmp_path / "page", config(SIZES))
    monkeypatch.chdir(tmp_path)
    assert hashed(backbone("local-dir:page")) == hashed(backbone(f"local-dir:{tmp_path / 'page'}"))
    assert find("local-dir:page").folder == Path("page")


def test_weights_of_timm_are_looked_up_by_the_file_that_it_names():
    assert hub.alternatives(None) == hub.FILES
    assert hub.alternatives("open_clip_pytorch_model.bin")[0] == "open_clip_model.safetensors"
    assert hub.alternatives("PE-Core-B16-224.pt") == ("PE-Core-B16-224.pt",)


def test_name_and_arguments_build_the_same_model_in_timm(tmp_path):
    vit = written(tmp_path / "page", config({**REGISTERS, "global_pool": "avg"}))
    name, arguments = backbone(f"local-dir:{tmp_path / 'page'}").in_timm()
    again = timm.create_model(name, num_classes=0, **source.resolved(arguments)).eval()
    again.load_state_dict(vit.state_dict())
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(again(images), vit(images))


def test_page_for_other_channels_than_three_loads_alone_and_for_three(tmp_path):
    held = config(SIZES, input_size=[5, 32, 32], mean=[0.1, 0.2, 0.3, 0.4, 0.5], std=[0.2] * 5)
    vit = written(tmp_path / "page", held)
    name = f"local-dir:{tmp_path / 'page'}"
    assert torch.equal(backbone(name).load().patch_embed.proj.weight, vit.patch_embed.proj.weight)
    assert backbone(name).preprocessing().mean == (0.1, 0.2, 0.3, 0.4, 0.5)
    three = backbone(name, in_chans=3)
    again = timm.create_model(name, pretrained=True, num_classes=0, in_chans=3)
    assert torch.equal(three.load().patch_embed.proj.weight, again.patch_embed.proj.weight)
    assert three.preprocessing().mean == pytest.approx((0.3,) * 3)


def test_config_cannot_make_timm_read_other_files(tmp_path):
    written(tmp_path / "page", config(SIZES))
    (tmp_path / "page/config.json").write_text(json.dumps(config({**SIZES, "checkpoint_path": "/etc/passwd"})))
    said = refusal(f"local-dir:{tmp_path / 'page'}")
    assert said.endswith("model_args has checkpoint_path, which is no argument of a model")


def test_own_file_is_the_one_that_can_change_under_its_name(tmp_path):
    written(tmp_path / "page", config(SIZES))
    name = f"local-dir:{tmp_path / 'page'}"
    assert backbone(name).own_file() == tmp_path / "page/model.safetensors"
    assert backbone(name, pretrained=False).own_file() is None
    assert backbone(name, checkpoint="w.pth").own_file() == Path("w.pth")
    assert backbone(ARCHITECTURE, checkpoint="package:w.safetensors").own_file() is None
    assert backbone(ARCHITECTURE).own_file() is None
    assert backbone("local-dir:nowhere").own_file() is None
