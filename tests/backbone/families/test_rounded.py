"""Frozen weights that are rounded once give every family autocast's bits."""

import pytest
import timm
import torch
from test_methods import GRIDS, IMAGES, LABELS, PAIRS, adapted
from torch import Tensor
from torch.nn import functional as F

import peft_vision
from peft_vision.backbone.frozen_weights import rounded_once
from peft_vision.models.model import Model


def computed(model: Model, dtype: torch.dtype) -> tuple[list[Tensor], set[str]]:
    """Logits and gradients under bf16 autocast, and the names of what was rounded."""
    model.zero_grad()
    folds = "contexts" in model.readout.reads
    with rounded_once(model.encoder, dtype, biases_of_qkv=not folds):
        rounded = {name for name, p in model.named_parameters() if p.dtype == torch.bfloat16}
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(IMAGES)
        F.cross_entropy(logits.float(), LABELS).backward()
    return [logits, *(p.grad for p in model.parameters() if p.grad is not None)], rounded


SHOWN = ("lora", "vpt_deep", "vqt_lora")
"""Methods that multiply, wrap and read in different places."""
CASES = [(variant, method) for variant, method in PAIRS if method in SHOWN or variant == "DINOv3"]
CASES += [(variant, method) for variant in GRIDS for method in ("ssf", "full")]
CASES += [(variant, "ssf") for variant in ("EVA", "BEiT", "relative", "ViT")]


@pytest.mark.filterwarnings("ignore:Mismatch dtype:UserWarning")  # of torch, about an RMS norm, once in a process
@pytest.mark.parametrize(("variant", "method"), CASES)
def test_a_family_computes_the_same_bits(variant, method):
    model = adapted(variant, method)
    (anew, none), (once, rounded) = (computed(model, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert rounded or method in ("full", "lp_ft")  # in which all weights train
    assert not none
    assert all(map(torch.equal, once, anew))
    assert len(once) == len(anew)


def test_where_timms_own_forward_is_run_nothing_is_rounded():
    model = peft_vision.adapt(timm.create_model("test_resnet", num_classes=0), method="linear", num_classes=4)
    with rounded_once(model.encoder, torch.bfloat16, biases_of_qkv=True):
        assert {p.dtype for p in model.parameters()} == {torch.float32}
