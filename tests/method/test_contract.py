"""What every method owes, whichever it is."""

import copy
from functools import partial

import pytest
import torch
from torch.nn import functional as F

import peft_vision
from conftest import tiny_vit
from peft_vision.backbone.encoder import Encoder
from peft_vision.core.config_files import CONFIG_DIR, ConfigFiles
from peft_vision.models.model import Model
from peft_vision.testing import (
    METHOD_CHECKS,
    a_copy_trains_apart,
    every_pooling_works,
    the_seed_alone_decides,
    what_is_stored_is_what_is_computed,
)
from shipped import METHODS, adapted

FILES = ConfigFiles([CONFIG_DIR])  # which takes a tenth of the time of Hydra, for all processes that collect the tests
OWN = [(method, FILES.composed({"method": method}).at("method.layers")) for method in METHODS]
ANYWHERE = (the_seed_alone_decides, a_copy_trains_apart, every_pooling_works)
"""Checks that layers do not matter to: one set of them is enough."""
STORED = {"linear", "partial", "vqt", "head2toe"}
"""Methods of whose own layers the first stays bare, so that something can be stored."""
CASES = [(check, *own) for check in METHOD_CHECKS for own in OWN]
CASES = [case for case in CASES if case[0] is not what_is_stored_is_what_is_computed or case[1] in STORED]
CASES += [
    (check, method, "last-1")
    for check in METHOD_CHECKS
    for method, layers in OWN
    if method != "linear" and layers != "last-1" and check not in ANYWHERE
]


def train_steps(model: Model, images: torch.Tensor, labels: torch.Tensor, *, steps: int = 2) -> None:
    tuned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(tuned, lr=0.01, eps=1e-30)  # so that small gradients move their weights too
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()


@pytest.mark.parametrize(("check", "method", "layers"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_a_shipped_method_passes_the_checks_for_own_ones(check, method, layers):
    check(partial(adapted, method, layers=layers))


def test_the_shipped_methods_were_found():
    assert {"linear", "full", "vpt_shallow", "vpt_deep", "lora", "vqt_lora"} <= set(METHODS)


def test_what_is_stored_is_compared_after_training(monkeypatch):
    """An untrained LoRA adds zero, so that a pass from tokens which leaves it out would not be found."""
    resume = Encoder.resume

    def without(encoder, *given, **options):
        if torch.is_grad_enabled():
            return resume(encoder, *given, **options)
        zeros = {name: 0 * value for name, value in encoder.named_parameters() if ".up." in name}
        bare = copy.deepcopy(encoder)
        bare.load_state_dict(zeros, strict=False)
        return resume(bare, *given, **options)

    make = partial(adapted, "lora", layers="last-1")
    what_is_stored_is_what_is_computed(make)
    monkeypatch.setattr(Encoder, "resume", without)
    with pytest.raises(AssertionError, match="stored observations give other logits"):
        what_is_stored_is_what_is_computed(make)


@pytest.mark.parametrize("method", METHODS)
def test_the_users_backbone_stays_as_it_was(method, images, labels):
    vit = tiny_vit()
    before = copy.deepcopy(vit)
    train_steps(peft_vision.adapt(vit, method=method, num_classes=4), images, labels)
    assert all(parameter.requires_grad for parameter in vit.parameters())
    assert vit.state_dict().keys() == before.state_dict().keys()
    assert torch.equal(vit.eval()(images), before.eval()(images))
