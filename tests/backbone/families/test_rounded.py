"""Frozen weights that are rounded once give every family autocast's bits."""

import pytest
import timm
import torch
from test_methods import IMAGES, LABELS, PAIRS, adapted
from torch import Tensor
from torch.nn import functional as F

import peft_vision
from peft_vision.backbone.frozen_weights import rounded_once


def computed(variant: str, method: str, dtype: torch.dtype) -> tuple[list[Tensor], set[str]]:
    """Logits and gradients under bf16 autocast, and the names of what was rounded."""
    model = adapted(variant, method)
    folds = "contexts" in model.readout.reads
    with rounded_once(model.encoder, dtype, biases_of_qkv=not folds):
        rounded = {name for name, p in model.named_parameters() if p.dtype == torch.bfloat16}
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(IMAGES)
        F.cross_entropy(logits.float(), LABELS).backward()
    return [logits, *(p.grad for p in model.parameters() if p.grad is not None)], rounded


SHOWN = ("lora", "vpt_deep", "vqt_lora", "ssf", "full")
"""Methods that multiply, wrap, read and train in different places."""
CASES = [(variant, method) for variant, method in PAIRS if method in SHOWN or variant in ("DINOv3", PAIRS[0][0])]


@pytest.mark.filterwarnings("ignore:Mismatch dtype:UserWarning")  # of torch, about an RMS norm, once in a process
@pytest.mark.parametrize(("variant", "method"), CASES)
def test_a_family_computes_the_same_bits(variant, method):
    (once, rounded), (anew, none) = (computed(variant, method, dtype) for dtype in (torch.bfloat16, torch.float32))
    assert rounded or method in ("full", "lp_ft")  # in which all weights train
    assert not none
    assert all(map(torch.equal, once, anew))
    assert len(once) == len(anew)


def test_where_timms_own_forward_is_run_nothing_is_rounded():
    model = peft_vision.adapt(timm.create_model("test_resnet", num_classes=0), method="linear", num_classes=4)
    with rounded_once(model.encoder, torch.bfloat16, biases_of_qkv=True):
        assert {p.dtype for p in model.parameters()} == {torch.float32}
