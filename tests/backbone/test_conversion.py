"""Weights in other forms than timm's own: which function of timm converts them, and encoders of language models."""

import sys

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import _builder

from peft_vision.backbone import conversion
from peft_vision.backbone.families.match import family_of
from peft_vision.backbone.load import Backbone
from peft_vision.core.config import ConfigError

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2}
ENCODERS = {
    "qwen3_vit_88m": {**SMALL, "out_features": 16, "pos_embed_grid_size": 4},
    "deepseek_vit_412m": {**SMALL, "out_features": 16, "patch_size": 16},
    "gemma4_vit_167m": {**SMALL, "head_dim": 16, "intermediate_size": 64, "use_clipped_linears": False},
}
"""Small models; the name with _enc at its end is the encoder alone."""


class Captured(Exception):
    """Raised in place of building a model."""


def backbone(name, **values):
    usual = {
        "pretrained": False,
        "checkpoint": None,
        "img_size": 96,
        "in_chans": None,
        "frozen_bits": None,
        "pool": None,
    }
    usual |= {"drop_path": 0.0, "normalization": "own", "interpolation": "own", "architecture": {}}
    return Backbone(name=name, **{**usual, **values})


def test_timms_own_function_converts_the_weights_of_every_architecture(monkeypatch):
    """timm says which one where it builds a model. Two kinds differ: ByobNet has models without one, for which the
    other changes nothing but names of CLIP, and CrossViT's renames what is no longer released."""

    def note(cls, variant, pretrained, pretrained_filter_fn=None, **further):
        raise Captured(cls, pretrained_filter_fn)

    builds = _builder.build_model_with_cfg
    for module in [vars(module) for name, module in sys.modules.items() if name.startswith("timm.models.")]:
        if module.get("build_model_with_cfg") is builds:
            monkeypatch.setitem(module, "build_model_with_cfg", note)
    for name in dict.fromkeys(name.partition(".")[0] for name in timm.list_pretrained()):
        with pytest.raises(Captured) as caught:
            timm.create_model(name, num_classes=0)
        cls, expected = caught.value.args
        vit = cls.__new__(cls)
        torch.nn.Module.__init__(vit)
        vit.pretrained_cfg = {"architecture": name}
        found, options = conversion._filter_of(vit)
        if cls.__name__ in ("ByobNet", "CrossVit") and expected is not found:
            continue
        assert found is getattr(expected, "func", expected), name
        given = dict(getattr(expected, "keywords", {}))
        given.pop("adapt_layer_scale", None)  # by the names in the file
        assert options == {key: value for key, value in given.items() if value != ""}, name


@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_of_a_language_model_gives_the_mean_of_its_tokens_as_timm_does(tmp_path, name):
    source = timm.create_model(f"{name}_enc", **ENCODERS[name], img_size=96).eval()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.normal_(std=0.1)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    own = backbone(f"{name}_enc", architecture=ENCODERS[name], checkpoint=str(tmp_path / "w.safetensors"))
    own.check()
    vit = own.load().eval()
    assert vit.global_pool == "avg"
    images = torch.rand(2, 3, 96, 96)
    trunk = family_of(vit)(vit)
    features = trunk.pool(vit.forward_features(images))
    assert torch.equal(features, vit(images))
    tokens = source.forward_features(images)
    assert torch.allclose(features, tokens.flatten(1, -2).mean(1), atol=1e-6)
    around = backbone(
        name,
        architecture={key: value for key, value in ENCODERS[name].items() if key != "out_features"},
        checkpoint=str(tmp_path / "w.safetensors"),
    ).load()
    assert torch.equal(around.encoder.blocks[1].norm1.weight, source.blocks[1].norm1.weight)


def test_encoder_that_was_built_to_give_tokens_is_refused_with_what_to_set():
    name = "qwen3_vit_88m"
    encoder = timm.create_model(f"{name}_enc", **ENCODERS[name], img_size=96)
    with pytest.raises(ConfigError, match="built with global_pool='merge', gives tokens; global_pool='avg' gives"):
        family_of(encoder)
    with pytest.raises(ConfigError, match="Only avg or merge pooling"):
        backbone(f"{name}_enc", architecture=ENCODERS[name], pool="token").check()
