"""A trained model as plain timm weights."""

import pytest
import torch
from timm.layers import SwiGLUPacked

import peft_vision
from conftest import tiny_vit
from peft_vision.exchange.timm_weights import timm_state
from reference import randomised
from shipped import METHODS, adapted

MERGEABLE = {
    "linear": {},
    "full": {},
    "lp_ft": {},
    "partial": {},
    "bitfit": {},
    "layer_norm": {},
    "lora": {},
    "lora with every target": {"targets": ("q", "k", "v", "proj", "fc1", "fc2")},
    "lora of a direction": {"dora": True, "targets": ("qkv", "fc2")},
    "ssf": {},
    "fact_tt": {},
    "fact_tk": {},
    "repadapter": {},
    "combined": {
        "parts": {"fact_tt": {"layers": "first-2"}, "lora": {"layers": "last-2"}, "ssf": None, "bitfit": None}
    },
}
REST = sorted(set(METHODS) - set(MERGEABLE))


ARCHITECTURES = {
    "class token": {},
    "average pooling": {"global_pool": "avg"},
    "no biases": {"qkv_bias": False, "proj_bias": False},
    "a norm before the blocks, so no bias of the patches": {"pre_norm": True},
    "DINOv2's giant": {"mlp_layer": SwiGLUPacked, "mlp_ratio": 2.66667 * 2, "init_values": 0.1},
}
NEEDS = {  # the first bias that is not there, where what was tuned shifts what a layer gives
    ("ssf", "no biases"): r"blocks\.0\.attn\.proj\.bias",
    ("repadapter", "no biases"): r"blocks\.0\.attn\.qkv\.bias",
    ("combined", "no biases"): r"blocks\.0\.attn\.proj\.bias",
    ("ssf", "a norm before the blocks, so no bias of the patches"): r"patch_embed\.proj\.bias",
    ("combined", "a norm before the blocks, so no bias of the patches"): r"patch_embed\.proj\.bias",
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", MERGEABLE)
def test_untouched_timm_loads_it_and_computes_the_same_logits_or_it_is_refused(name, architecture, images):
    method, values = name.split()[0], ARCHITECTURES[architecture]
    model = randomised(method, architecture=values, **MERGEABLE[name])
    if (bias := NEEDS.get((method, architecture))) is not None:
        with pytest.raises(ValueError, match=f"{bias}: this backbone has no such weight.* timm could not load it"):
            timm_state(model)
        with pytest.raises(ValueError, match=bias), peft_vision.merged(model):
            pass
        return
    plain = tiny_vit(**values)
    plain.reset_classifier(4)
    plain.load_state_dict(timm_state(model), strict=True)
    torch.testing.assert_close(plain.eval()(images), model(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", REST)
def test_what_is_no_change_of_weights_is_refused_with_the_reason(method):
    model = adapted(method)
    before = model.state_dict().keys()
    with pytest.raises(ValueError, match=r"no weight of a plain backbone computes that|reads more than"):
        timm_state(model)
    assert model.state_dict().keys() == before


def test_a_batch_norm_before_the_classifier_is_folded_in(images):
    model = adapted("lora", head={"norm": "batch"})
    model.train()(images)  # moves its statistics
    model.head[0].running_var[:16] *= 1e-6  # as small as eps, which then counts
    plain = tiny_vit()
    plain.reset_classifier(4)
    plain.load_state_dict(timm_state(model))
    torch.testing.assert_close(plain.eval()(images), model.eval()(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", [{"norm": "layer"}, {"hidden": [8]}])
def test_a_head_that_timm_has_not_is_refused(head):
    with pytest.raises(ValueError, match="timm's is one linear layer"):
        timm_state(adapted("lora", head=head))
